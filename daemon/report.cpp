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

std::uint64_t value_of(const CacheCounters& counters, const char* name) {
    const auto found = counters.find(name);
    return found == counters.end() ? 0 : found->second;
}

void add_cache(Statistics& statistics, const CacheCounters& counters) {
    for (const auto& [name, value] : counters) statistics.emplace("cache_" + name, value);
}

ZoneSnapshot make_zone(const Zone& zone, const ZoneIdentity& identity, const Facts& facts) {
    std::vector<std::string> items;
    items.reserve(zone.match.size());
    for (const Match& match : zone.match) items.push_back(to_text(match));
    const ZoneCount count = facts.zones.of(zone.name);
    ZoneLinks links = links_of(zone, facts.links);
    ZoneSnapshot snapshot{
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
    if (const auto cached = facts.cache.zones.find(identity.id); cached != facts.cache.zones.end())
        add_cache(snapshot.statistics, cached->second);
    return snapshot;
}

} // namespace

Snapshot make_snapshot(const Facts& facts) {
    const ConntrackState& conntrack = facts.conntrack;
    Snapshot snapshot{.version = CTCACHED_VERSION,
                      .degraded = {},
                      .generation = facts.generation,
                      .conntrack_count = conntrack.count,
                      .conntrack_max = conntrack.max,
                      .conntrack_buckets = conntrack.facts.buckets,
                      .pressure = conntrack.pressure,
                      .cache_state = facts.cache.state,
                      .cache_reason = facts.cache.reason,
                      .cache_decisions = value_of(facts.cache.totals, "decisions"),
                      .cache_capacity = facts.compiled.policy.cache.decisions,
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
    add_cache(snapshot.statistics, facts.cache.totals);
    for (std::size_t z = 0; z < facts.compiled.policy.zones.size(); ++z)
        snapshot.zones.push_back(make_zone(facts.compiled.policy.zones[z], facts.compiled.ids.zones[z], facts));
    return snapshot;
}

} // namespace ctcached
