// The table inet ctcached and who may touch it.
//
// The strongest ownership that the kernel and the service manager allow:
//
//     owner + persist    Linux >= 6.9: nobody else can change it, it outlives this process, the next one adopts it
//     owner              the service manager keeps the netlink socket (FD store), so it outlives this process too
//     none               neither: others can change it, which the monitor sees and the manager repairs
//
// An owned table without persistence vanishes with its socket, so without a store it would take the live flows' zones
// with it when the daemon is killed; a table that others can break but that is repaired is the lesser evil there.
#pragma once

#include "base/error.hpp"
#include "base/handle.hpp"
#include "kernel/nft.hpp"
#include "plan/counters.hpp"
#include "plan/diff.hpp"

#include <optional>
#include <string>
#include <vector>

namespace ctcached {

class Table {
public:
    // `stored`: the socket of an earlier run, from the FD store. `has_store`: a new socket would be kept there.
    [[nodiscard]] static Result<Table> open(Fd stored, bool has_store);

    [[nodiscard]] int socket() const { return socket_.fd(); }
    [[nodiscard]] int monitor() const { return monitor_.fd(); }
    [[nodiscard]] AddTable flags() const { return flags_; }
    // The socket must be in the FD store before the table is made with it.
    [[nodiscard]] bool wants_store() const { return flags_.owner && !flags_.persist; }

    // The table as it is; counters are taken in.
    [[nodiscard]] Result<std::optional<ObservedTable>> observe();
    // Makes the kernel's table `desired` in one transaction; what changed, a line each (none: nothing). EBUSY when the
    // table has another owner. On failure the old table is untouched.
    [[nodiscard]] Result<std::vector<std::string>> apply(const Ruleset& desired);
    // What others did to the table since the last call; empty: nothing.
    [[nodiscard]] Result<std::vector<std::string>> foreign_changes();
    // Before this process ends: leaves the table so that it stays.
    [[nodiscard]] Result<void> hand_over(const Ruleset& desired);
    [[nodiscard]] Result<void> remove();

    [[nodiscard]] const ZoneCounters& counters() const { return counters_; }

private:
    Table(NftSocket socket, NftMonitor monitor) : socket_(std::move(socket)), monitor_(std::move(monitor)) {}
    [[nodiscard]] Result<std::vector<std::string>> change_to(const std::optional<Ruleset>& desired, AddTable flags);

    NftSocket socket_;
    NftMonitor monitor_;
    AddTable flags_;
    ZoneCounters counters_;
};

} // namespace ctcached
