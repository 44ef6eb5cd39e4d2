// What the daemon says of itself, from what its parts know.
#pragma once

#include "bus/snapshot.hpp"
#include "kernel/cache.hpp"
#include "kernel/conntrack.hpp"
#include "plan/compile.hpp"
#include "plan/counters.hpp"

#include <map>
#include <span>
#include <string>

namespace ctcached {

// The daemon's own counters; the names are those of Statistics, with "daemon_" before them.
struct DaemonCounters {
    std::uint64_t reloads = 0;         // policies applied
    std::uint64_t reloads_refused = 0; // policies that were invalid or that the kernel refused
    std::uint64_t table_repairs = 0;   // transactions that undid what others did to the table
};

// Reasons by part: each part sets and clears its own.
using Reasons = std::map<std::string, std::string>;

struct Facts {
    const Compiled& compiled;
    const ConntrackState& conntrack;
    const ZoneCounters& zones;
    const DaemonCounters& daemon;
    const Reasons& degraded;
    std::span<const std::string> links;
    std::span<const std::string> warnings;
    std::uint64_t generation = 0;
    const CacheView& cache;
};

[[nodiscard]] Snapshot make_snapshot(const Facts& facts);

} // namespace ctcached
