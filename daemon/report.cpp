#include "report.hpp"

#include "policy/text.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

namespace ctcached {

namespace {

std::vector<std::string> cache_names(const CacheKinds& cache) {
    std::vector<std::string> names;
    for (const auto& [kind, name] :
         {std::pair{&CacheKinds::route, "route"}, std::pair{&CacheKinds::ipsec, "ipsec"},
          std::pair{&CacheKinds::socket, "socket"}, std::pair{&CacheKinds::descriptor, "descriptor"}})
        if (cache.*kind) names.emplace_back(name);
    return names;
}

ZoneSnapshot make_zone(const Zone& zone, const ZoneIdentity& identity, const Facts& facts) {
    std::vector<std::string> items;
    items.reserve(zone.match.size());
    for (const Match& match : zone.match) items.push_back(to_text(match));
    const ZoneCount count = facts.zones.of(zone.name);
    ZoneLinks links = links_of(zone, facts.links);
    return {
        .name = zone.name,
        .id = identity.id,
        .direction = std::string(to_string(identity.direction)),
        .match = fmt::format("{}", fmt::join(items, "\n")),
        .cache = cache_names(zone.cache),
        .links = std::move(links.present),
        .missing = std::move(links.missing),
        .flow_class = zone.flow_class,
        .statistics = {
            {"flows", count.flows}, {"packets", count.packets}, {"bytes", count.bytes}, {"elements", count.elements}}};
}

} // namespace

Snapshot make_snapshot(const Facts& facts) {
    const CacheSettings& cache = facts.compiled.policy.cache;
    const ConntrackState& conntrack = facts.conntrack;
    Snapshot snapshot{.version = CTCACHED_VERSION,
                      .degraded = {},
                      .generation = facts.generation,
                      .conntrack_count = conntrack.count,
                      .conntrack_max = conntrack.max,
                      .conntrack_buckets = conntrack.facts.buckets,
                      .pressure = conntrack.pressure,
                      .cache_state = cache.mode == CacheMode::off ? "off" : "unavailable",
                      .cache_reason = cache.mode == CacheMode::off ? "cache.mode is off" : facts.cache_unavailable,
                      .cache_capacity = cache.decisions,
                      .statistics = {{"daemon_reloads", facts.daemon.reloads},
                                     {"daemon_reloads_refused", facts.daemon.reloads_refused},
                                     {"daemon_table_repairs", facts.daemon.table_repairs}},
                      .sizing = {{"arithmetic", conntrack.plan.arithmetic},
                                 {"reason", conntrack.plan.reason},
                                 {"drift", conntrack.drift},
                                 {"target_max", conntrack.plan.max},
                                 {"target_buckets", conntrack.plan.buckets},
                                 {"budget_bytes", conntrack.plan.budget_bytes},
                                 {"entry_bytes", conntrack.plan.entry_bytes},
                                 {"entry_bytes_measured", conntrack.facts.object_measured},
                                 {"memory_bytes", conntrack.facts.memory_bytes},
                                 {"writable", conntrack.facts.writable}},
                      .warnings = {facts.warnings.begin(), facts.warnings.end()},
                      .zones = {}};
    for (const auto& [part, reason] : facts.degraded) snapshot.degraded.push_back(reason);
    for (const auto& [name, value] : conntrack.counters) snapshot.statistics.emplace("conntrack_" + name, value);
    for (std::size_t z = 0; z < facts.compiled.policy.zones.size(); ++z)
        snapshot.zones.push_back(make_zone(facts.compiled.policy.zones[z], facts.compiled.ids.zones[z], facts));
    return snapshot;
}

} // namespace ctcached
