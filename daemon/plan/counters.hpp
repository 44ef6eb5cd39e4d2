// Zone counters that only grow.
//
// The kernel counts per map element, and elements come and go: a reload takes some away, a repair makes the table anew.
// So a zone's total is what its elements say now plus what was *retired* with elements that are gone.
#pragma once

#include "plan/diff.hpp"
#include "plan/ruleset.hpp"

#include <cstdint>
#include <map>
#include <span>
#include <string>

namespace ctcached {

struct ZoneCount {
    std::uint64_t flows = 0;    // opened: first packets that reached postrouting or a local socket
    std::uint64_t packets = 0;  // that met the zone's elements
    std::uint64_t bytes = 0;    // of those, with their IP headers
    std::uint64_t elements = 0; // of the zone, now; not a counter

    bool operator==(const ZoneCount&) const = default;
};

class ZoneCounters {
public:
    // The table as it is. A zone whose numbers fell was made anew by somebody: what it had is retired first.
    void observe(const Ruleset& table);
    // `changes` were applied to the table that was observed last: what they deleted is retired.
    void retire(const std::vector<Change>& changes, const Ruleset& observed);

    [[nodiscard]] ZoneCount of(const std::string& zone) const;

private:
    std::map<std::string, ZoneCount> retired_;
    std::map<std::string, ZoneCount> live_;
};

} // namespace ctcached
