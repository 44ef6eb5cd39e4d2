// Conntrack over netlink: its counters, and the flush of a zone.
//
// Counters come from IPCTNL_MSG_CT_GET_STATS (totals of the namespace) and IPCTNL_MSG_CT_GET_STATS_CPU (per CPU, summed
// here), never from procfs, which a kernel may lack, and never from a dump of the table.
#pragma once

#include "base/error.hpp"
#include "base/handle.hpp"

#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <vector>

namespace ctcached {

struct ConntrackTotals {
    std::uint64_t count = 0;
    std::uint64_t max = 0; // 0: the kernel is older than 4.18 and does not say
};

// Decoders: bytes of the kernel's replies in (any bytes: hostile), values out. EBADMSG for malformed input.
[[nodiscard]] Result<ConntrackTotals> decode_totals(std::span<const char> replies);
// Counter name as in uapi/linux/netfilter/nfnetlink_conntrack.h, lower case ("insert_failed", "early_drop", "drop",
// "search_restart", "clash_resolve", "chain_toolong", "found", "invalid", "insert", "error"), summed over the CPUs.
[[nodiscard]] Result<std::map<std::string, std::uint64_t>> decode_cpu_stats(std::span<const char> replies);

// An entry of one zone, as much of it as a request to delete it repeats: attributes as they came.
struct ZoneFlow {
    std::uint8_t family = 0;
    bool both = false;     // the zone is of both directions
    bool by_reply = false; // `tuple` is that of the reply, because the zone is of that direction only
    std::string tuple;
    std::string id;

    bool operator==(const ZoneFlow&) const = default;
};
// The entries of `zone` in a part of a dump.
[[nodiscard]] Result<std::vector<ZoneFlow>> decode_zone_flows(std::span<const char> replies, std::uint16_t zone);

class Ctnetlink {
public:
    // EPROTONOSUPPORT when the kernel has no nf_conntrack_netlink, EPERM without CAP_NET_ADMIN.
    [[nodiscard]] static Result<Ctnetlink> open();
    [[nodiscard]] Result<ConntrackTotals> totals();
    [[nodiscard]] Result<std::map<std::string, std::uint64_t>> cpu_stats();
    // Deletes the flows of one zone, by tuple: kernels before 6.8 ignore the zone of a flush request and would delete
    // those of every zone (nf_conntrack_netlink.c, ctnetlink_needs_filter). Returns how many. EINVAL for zone 0.
    [[nodiscard]] Result<std::uint64_t> flush_zone(std::uint16_t zone);

private:
    explicit Ctnetlink(Fd fd) : fd_(std::move(fd)) {}
    [[nodiscard]] Result<std::uint64_t> delete_flows(std::span<const ZoneFlow> flows, std::uint16_t zone);

    Fd fd_;
    std::uint32_t sequence_ = 0;
};

} // namespace ctcached
