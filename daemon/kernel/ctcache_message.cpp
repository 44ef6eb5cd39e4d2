#include "kernel/ctcache_message.hpp"

#include "kernel/genl.hpp"
#include "kernel/genl_request.hpp"

#include <fmt/format.h>
#include <linux/netlink.h>
#include <nf_ctcache.h>

#include <array>
#include <cerrno>

namespace ctcached {

namespace {

constexpr std::string_view what = "nf_ctcache: reply";

constexpr std::array<const char*, CTCACHE_STAT_MAX + 1> stat_names{
    "",     "hits", "misses",     "learned", "decisions", "capacity",  "refused",
    "full", "late", "no_carrier", "sweeps",  "proofs",    "mismatches"};
constexpr std::array<const char*, CTCACHE_MISS_MAX + 1> miss_names{
    "",          "miss_none",   "miss_epoch",    "miss_unfit",     "miss_address", "miss_input", "miss_mark",
    "miss_dscp", "miss_sysctl", "miss_obsolete", "miss_multipath", "miss_socket",  "miss_ipsec"};
constexpr std::array<const char*, CTCACHE_CAUSE_MAX + 1> cause_names{"",
                                                                     "epochs_config",
                                                                     "epochs_flush",
                                                                     "epochs_fib4",
                                                                     "epochs_fib6",
                                                                     "epochs_rule",
                                                                     "epochs_nexthop",
                                                                     "epochs_address",
                                                                     "epochs_device",
                                                                     "epochs_sysctl",
                                                                     "epochs_generation4",
                                                                     "epochs_generation6",
                                                                     "epochs_settled",
                                                                     "epochs_full",
                                                                     "epochs_carrier",
                                                                     "epochs_wrap",
                                                                     "epochs_ipsec"};
static_assert(ctcache_version == CTCACHE_GENL_VERSION && std::string_view(ctcache_family) == CTCACHE_GENL_NAME);
static_assert(stat_names.back() && miss_names.back() && cause_names.back(), "a counter has no name");

std::uint32_t bits_of(const CacheKinds& kinds) {
    return (kinds.route ? CTCACHE_KIND_ROUTE : 0U) | (kinds.ipsec ? CTCACHE_KIND_IPSEC : 0U) |
           (kinds.socket ? CTCACHE_KIND_SOCKET : 0U);
}

std::uint8_t wire(Carrier carrier) {
    switch (carrier) {
    case Carrier::none: break;
    case Carrier::act_ct: return CTCACHE_CARRIER_ACT_CT;
    case Carrier::labels: return CTCACHE_CARRIER_LABELS;
    }
    return CTCACHE_CARRIER_NONE;
}

// `visit(attributes)` for each message that is an answer and no verdict; false when one is malformed.
template <typename Visit>
bool for_each_answer(std::span<const char> replies, Visit visit) {
    const auto messages = split_messages(replies);
    if (!messages) return false;
    for (const NftMessage& message : *messages) {
        if (message.type < NLMSG_MIN_TYPE) continue;
        if (message.attributes.malformed() || !visit(message.attributes)) return false;
    }
    return true;
}

template <std::size_t N>
void add_counters(CacheCounters& counters, const Attributes& nest, const std::array<const char*, N>& names) {
    for (std::size_t i = 1; i < N; ++i)
        if (const auto value = host_u64(nest, static_cast<std::uint16_t>(i))) counters.emplace(names[i], *value);
}

} // namespace

std::string encode_config(std::uint16_t family, const CachePlan& plan, Carrier carrier) {
    constexpr std::size_t number_bytes = NLA_HDRLEN + NLA_ALIGN(sizeof(std::uint32_t));
    constexpr std::size_t zone_bytes = NLA_HDRLEN + 3 * number_bytes;
    GenlRequest request(family, CTCACHE_CMD_CONFIG_SET, NLM_F_ACK, 3 * number_bytes + plan.zones.size() * zone_bytes);
    request.put(CTCACHE_A_CARRIER, wire(carrier));
    if (carrier == Carrier::none) return request.bytes();
    request.put(CTCACHE_A_DECISIONS, plan.decisions);
    request.put(CTCACHE_A_PROOF, plan.proof);
    for (const CacheZone& zone : plan.zones)
        request.nest(CTCACHE_A_ZONE, [&] {
            request.put(CTCACHE_ZONE_A_ID, zone.id);
            request.put(CTCACHE_ZONE_A_KINDS, bits_of(zone.kinds));
            request.put(CTCACHE_ZONE_A_CLASS, zone.flow_class);
        });
    return request.bytes();
}

std::string encode_stats_request(std::uint16_t family) {
    return GenlRequest(family, CTCACHE_CMD_STATS_GET, NLM_F_ACK).bytes();
}

std::string encode_zone_stats_request(std::uint16_t family) {
    return GenlRequest(family, CTCACHE_CMD_STATS_GET, NLM_F_DUMP).bytes();
}

std::string encode_flush(std::uint16_t family, std::optional<std::uint16_t> zone) {
    GenlRequest request(family, CTCACHE_CMD_FLUSH, NLM_F_ACK);
    if (zone) request.put(CTCACHE_A_ZONE_ID, *zone);
    return request.bytes();
}

Result<std::uint64_t> decode_configured(std::span<const char> replies) {
    std::optional<std::uint64_t> generation;
    const bool read = for_each_answer(replies, [&](const Attributes& answer) {
        generation = host_u64(answer, CTCACHE_A_GENERATION);
        return generation.has_value();
    });
    if (!read || !generation) return failure(EBADMSG, what);
    return *generation;
}

Result<CacheStatus> decode_status(std::span<const char> replies) {
    std::optional<CacheStatus> status;
    const bool read = for_each_answer(replies, [&](const Attributes& answer) {
        const auto generation = host_u64(answer, CTCACHE_A_GENERATION);
        const auto state = host_u8(answer, CTCACHE_A_STATE);
        if (!generation || !state || *state > CTCACHE_STATE_LOST) return false;
        status = {.generation = *generation, .state = static_cast<ModuleState>(*state), .counters = {}};
        add_counters(status->counters, answer.nested(CTCACHE_A_STATS), stat_names);
        add_counters(status->counters, answer.nested(CTCACHE_A_MISSES), miss_names);
        add_counters(status->counters, answer.nested(CTCACHE_A_EPOCHS), cause_names);
        return true;
    });
    if (!read || !status) return failure(EBADMSG, what);
    return *status;
}

Result<std::map<std::uint16_t, CacheCounters>> decode_zone_stats(std::span<const char> replies) {
    std::map<std::uint16_t, CacheCounters> zones;
    const bool read = for_each_answer(replies, [&](const Attributes& answer) {
        const auto zone = host_u16(answer, CTCACHE_A_ZONE_ID);
        if (!zone && answer.has(CTCACHE_A_ZONE_ID)) return false;
        add_counters(zones[zone.value_or(0)], answer.nested(CTCACHE_A_STATS), stat_names);
        return true;
    });
    if (!read) return failure(EBADMSG, what);
    return zones;
}

} // namespace ctcached
