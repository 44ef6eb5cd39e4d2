// The whole way from documents to what the kernel should have, without touching it.
//
// --check, --print, --diff, the D-Bus method Check and every reload go this one way; they differ in what they do with
// the result.
#pragma once

#include "plan/cache.hpp"
#include "plan/layers.hpp"
#include "plan/ruleset.hpp"
#include "plan/zones.hpp"
#include "policy/diagnostics.hpp"
#include "policy/model.hpp"

#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace ctcached {

struct Compiled {
    Policy policy; // with the directions that its zones have
    ZoneAssignment ids;
    Ruleset ruleset;
    CachePlan cache;
};

// Everything that is wrong goes to `diagnostics`, sorted; the result is meaningful only without errors.
[[nodiscard]] Compiled compile(std::span<const Source> sources, const ZoneTable& remembered, Diagnostics& diagnostics);

// The links that a zone's matches name: those that are there, and the names that are not.
struct ZoneLinks {
    std::vector<std::string> present; // sorted
    std::vector<std::string> missing; // sorted; wildcards are never missing
};
[[nodiscard]] ZoneLinks links_of(const Zone& zone, std::span<const std::string> links);

// A warning for each named interface that is not among `links`.
void lint_links(const Policy& policy, std::span<const std::string> links, Diagnostics& diagnostics);

} // namespace ctcached
