#include "plan/compile.hpp"

#include "plan/build.hpp"
#include "policy/parse.hpp"
#include "policy/validate.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <set>

namespace ctcached {

namespace {

bool matches(const InterfacePattern& pattern, std::string_view link) {
    return pattern.wildcard ? link.starts_with(pattern.name) : link == pattern.name;
}

// A remembered direction was valid once; among the zones of today it may not be. The policy did not ask for it, so the
// zone goes back to the default instead of failing.
void adopt_directions(Policy& policy, ZoneTable& zones, Diagnostics& diagnostics) {
    Policy tried = policy;
    for (std::size_t z = 0; z < zones.size(); ++z) tried.zones[z].direction = zones[z].direction;
    Diagnostics reasons;
    if (validate_directions(tried, reasons)) {
        policy = std::move(tried);
        return;
    }
    for (std::size_t z = 0; z < zones.size(); ++z) {
        if (policy.zones[z].direction) continue;
        if (zones[z].direction == Direction::both)
            diagnostics.warning(
                policy.zones[z].place,
                fmt::format("zone \"{}\" had `direction: both` and loses it: among the present zones it would "
                            "lose replies; its live flows are orphaned",
                            policy.zones[z].name));
        zones[z].direction = Direction::original;
        policy.zones[z].direction = Direction::original;
    }
}

} // namespace

Compiled compile(std::span<const Source> sources, const ZoneTable& remembered, Diagnostics& diagnostics) {
    Compiled compiled{.policy = parse_policy(sources, diagnostics), .ids = {}, .ruleset = {}, .cache = {}};
    if (!diagnostics.has_errors()) {
        compiled.ids = assign_zones(compiled.policy, remembered);
        adopt_directions(compiled.policy, compiled.ids.zones, diagnostics);
        std::ranges::copy(compiled.ids.zones, compiled.ids.remember.begin());
        const auto layers = plan_layers(compiled.policy, compiled.ids.zones, diagnostics);
        compiled.ruleset = build_ruleset(layers, compiled.ids.zones);
        compiled.cache = plan_cache(compiled.policy, compiled.ids.zones);
    }
    diagnostics.sort();
    return compiled;
}

ZoneLinks links_of(const Zone& zone, std::span<const std::string> links) {
    std::set<std::string> present;
    std::set<std::string> missing;
    for (const Match& match : zone.match)
        for (const InterfacePattern& pattern : match.interfaces) {
            bool found = false;
            for (const std::string& link : links)
                if (matches(pattern, link)) {
                    present.insert(link);
                    found = true;
                }
            if (!found && !pattern.wildcard) missing.insert(pattern.name);
        }
    return {{present.begin(), present.end()}, {missing.begin(), missing.end()}};
}

void lint_links(const Policy& policy, std::span<const std::string> links, Diagnostics& diagnostics) {
    for (const Zone& zone : policy.zones)
        for (const Match& match : zone.match)
            for (const InterfacePattern& pattern : match.interfaces)
                if (!pattern.wildcard && std::ranges::find(links, pattern.name) == links.end())
                    diagnostics.warning(match.place, fmt::format("interface \"{}\" is not there (yet)", pattern.name));
    diagnostics.sort();
}

} // namespace ctcached
