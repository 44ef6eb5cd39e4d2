// Notifications of the nftables group as short sentences.
//
// The kernel sends one message per object that a transaction changed, each with the requester's port, and then one
// NFT_MSG_NEWGEN that names the process (nf_tables_commit, nf_tables_gen_notify). So a transaction is collected until
// its end is seen, equal sentences become one with a number (10,000 elements are one event), and the process is filled
// in.
#pragma once

#include "kernel/nft_message.hpp"

#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <utility>
#include <vector>

namespace ctcached {

struct NftEvent {
    std::string text;       // "map ip4_saddr: 3 elements removed", "table deleted"
    std::uint32_t port = 0; // netlink port id of the one who did it
    std::uint32_t pid = 0;  // of its process, from NFT_MSG_NEWGEN; 0: not known
    std::string process;    // its name, likewise

    bool operator==(const NftEvent&) const = default;
};

class NftEventLog {
public:
    // Takes one datagram; false when it is malformed. What `own_port` did, or what is not about our table, is no event.
    [[nodiscard]] bool take(std::span<const char> datagram, std::uint32_t own_port);
    // The events of the transactions that are complete; those without an end too if `all`.
    [[nodiscard]] std::vector<NftEvent> finished(bool all = false);

private:
    struct Change {
        std::string object; // "map ip4_saddr"
        std::string noun;   // "element"; empty when the object itself was changed
        std::string verb;   // "removed"
        auto operator<=>(const Change&) const = default;
    };
    void note(const NftMessage& message);
    void close(std::uint32_t pid, const std::string& process);

    std::uint32_t port_ = 0; // of the open transaction
    std::map<Change, std::size_t> open_;
    std::vector<NftEvent> done_;
};

} // namespace ctcached
