// Messages of the family nf_ctcache (kmod/uapi/nf_ctcache.h) as values.
//
// A configuration is one message whatever the number of zones: each is an attribute of its own at the top level, so no
// nest comes near the 64 KiB that an attribute may have. Counters are read by name, the names of the uapi header in
// lower case; one that a newer module has and this header has not is left out.
#pragma once

#include "base/error.hpp"
#include "plan/cache.hpp"

#include <cstdint>
#include <map>
#include <optional>
#include <span>
#include <string>

namespace ctcached {

inline constexpr const char* ctcache_family = "nf_ctcache";
inline constexpr std::uint32_t ctcache_version = 1;

// What the module says of itself; the order is that of the uapi header.
enum class ModuleState { off, active, sweeping, lost };

using CacheCounters = std::map<std::string, std::uint64_t>;

struct CacheStatus {
    std::uint64_t generation = 0;
    ModuleState state = ModuleState::off;
    CacheCounters counters; // "hits", "miss_epoch", "epochs_fib4"; "decisions" and "capacity" are not counters
};

// Carrier none is a whole request by itself: the plan's other parts do not matter.
[[nodiscard]] std::string encode_config(std::uint16_t family, const CachePlan& plan, Carrier carrier);
[[nodiscard]] std::string encode_stats_request(std::uint16_t family);
[[nodiscard]] std::string encode_zone_stats_request(std::uint16_t family);
[[nodiscard]] std::string encode_flush(std::uint16_t family, std::optional<std::uint16_t> zone);

// EBADMSG for what no module sends.
[[nodiscard]] Result<std::uint64_t> decode_configured(std::span<const char> replies);
[[nodiscard]] Result<CacheStatus> decode_status(std::span<const char> replies);
// By zone id; 0 is everything that the configuration does not name.
[[nodiscard]] Result<std::map<std::uint16_t, CacheCounters>> decode_zone_stats(std::span<const char> replies);

} // namespace ctcached
