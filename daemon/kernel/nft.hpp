// The nftables socket: one table observed, one transaction sent, one ear for what others do.
#pragma once

#include "base/error.hpp"
#include "base/handle.hpp"
#include "kernel/nft_codec.hpp"
#include "kernel/nft_event.hpp"
#include "plan/diff.hpp"

#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <vector>

namespace ctcached {

// What the kernel refused, and which change of the batch it was.
struct NftFailure {
    Failure failure;    // text: "map ip4_saddr: add 3 elements: File exists (EEXIST)"
    bool raced = false; // the ruleset's generation moved: observe and try again
};

// Takes one datagram of an answer.
using NftSink = std::function<Result<void>(std::span<const char>)>;

class NftSocket {
public:
    // Opens a new netlink socket, or adopts `fd` from the service manager's store (its port id comes with it).
    // Fails with EPROTONOSUPPORT when the kernel has no nf_tables, EPERM without CAP_NET_ADMIN.
    [[nodiscard]] static Result<NftSocket> open(Fd fd = {});

    [[nodiscard]] int fd() const { return fd_.get(); }
    [[nodiscard]] std::uint32_t port() const { return port_; }

    struct Observation {
        std::uint32_t generation = 0; // of the whole ruleset, valid for apply()
        std::optional<ObservedTable> table;
    };
    // Dumps the table under one generation (repeats, bounded, when it moves meanwhile).
    [[nodiscard]] Result<Observation> observe();

    // One batch, all or nothing, only if the ruleset's generation is still `generation`.
    [[nodiscard]] std::expected<void, NftFailure> apply(const std::vector<Change>& changes, std::uint32_t generation);

    // Elements with their counters of one set or map; ENOENT when it is not there.
    [[nodiscard]] Result<std::vector<Element>> elements(const std::string& set);

    // True when tables may have NFT_TABLE_F_PERSIST: tried with a table of another name that is never committed.
    [[nodiscard]] bool supports_persist();
    // True when tables may have NFT_TABLE_F_OWNER (Linux >= 5.12), probed likewise.
    [[nodiscard]] bool supports_owner();

private:
    NftSocket(Fd fd, std::uint32_t port) : fd_(std::move(fd)), port_(port) {}
    [[nodiscard]] Result<void> query(NftQuery what, const std::string& set, const NftSink& sink);
    [[nodiscard]] Result<std::uint32_t> generation();
    [[nodiscard]] Result<std::optional<ObservedTable>> dump();
    [[nodiscard]] bool probe(AddTable flags);

    Fd fd_;
    std::uint32_t port_ = 0;
    std::uint32_t sequence_ = 0;
};

class NftMonitor {
public:
    [[nodiscard]] static Result<NftMonitor> open();
    [[nodiscard]] int fd() const { return fd_.get(); }

    struct Batch {
        std::vector<NftEvent> events; // about table_name, not by `own_port`; NEWGEN's process is filled in
        bool lost = false;            // ENOBUFS: events were lost, observe to know
    };
    // Everything that is readable now; never blocks.
    [[nodiscard]] Result<Batch> read(std::uint32_t own_port);

private:
    explicit NftMonitor(Fd fd) : fd_(std::move(fd)) {}
    Fd fd_;
    NftEventLog log_; // of the transaction whose end is still to come
};

} // namespace ctcached
