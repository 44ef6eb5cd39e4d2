// What the daemon says of itself, as values: the one thing that D-Bus shows.
#pragma once

#include "plan/sizing.hpp"

#include <cstdint>
#include <map>
#include <string>
#include <variant>
#include <vector>

namespace ctcached {

using Statistics = std::map<std::string, std::uint64_t>;

struct ZoneSnapshot {
    std::string name;
    std::uint16_t id = 0;
    std::string direction;            // "original", "both"
    std::string match;                // as text, one item per line
    std::vector<std::string> cache;   // "route", "ipsec", "socket", "descriptor"
    std::vector<std::string> links;   // present links that its interface patterns match
    std::vector<std::string> missing; // named interfaces that are not there
    std::uint32_t flow_class = 0;
    Statistics statistics; // "flows" (opened), "packets", "bytes", "elements"

    bool operator==(const ZoneSnapshot&) const = default;
};

using SizingValue = std::variant<std::uint64_t, std::string, bool>;

struct Snapshot {
    std::string version;
    std::vector<std::string> degraded; // reasons; empty: State is "running"
    std::uint64_t generation = 0;      // of the applied policy, from 1; 0: none applied yet
    std::uint64_t conntrack_count = 0;
    std::uint64_t conntrack_max = 0;
    std::uint64_t conntrack_buckets = 0;
    Pressure pressure = Pressure::ok;
    std::string cache_state = "unavailable"; // "active", "unavailable", "off"
    std::string cache_reason;                // why it is unavailable
    std::uint64_t cache_decisions = 0;
    std::uint64_t cache_capacity = 0;
    Statistics statistics; // every counter of the namespace and of the daemon itself
    std::map<std::string, SizingValue> sizing;
    std::vector<std::string> warnings; // lints of the applied policy, "file:line:col: warning: text"
    std::vector<ZoneSnapshot> zones;

    bool operator==(const Snapshot&) const = default;
};

// JSON of everything, for Describe(): an object with the members above, keys sorted.
[[nodiscard]] std::string to_json(const Snapshot& snapshot);

} // namespace ctcached
