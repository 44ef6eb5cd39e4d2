// nlohmann-json keeps an object's keys sorted and escapes what is not UTF-8, so equal snapshots are equal texts.
#include "bus/snapshot.hpp"

#include <nlohmann/json.hpp>

namespace ctcached {

namespace {

nlohmann::json to_value(const std::map<std::string, SizingValue>& sizing) {
    auto result = nlohmann::json::object();
    for (const auto& entry : sizing) std::visit([&](const auto& value) { result[entry.first] = value; }, entry.second);
    return result;
}

nlohmann::json to_value(const ZoneSnapshot& zone) {
    return {
        {"name", zone.name},
        {"id", zone.id},
        {"direction", zone.direction},
        {"match", zone.match},
        {"cache", zone.cache},
        {"links", zone.links},
        {"missing", zone.missing},
        {"class", zone.flow_class},
        {"statistics", zone.statistics},
    };
}

} // namespace

std::string to_json(const Snapshot& snapshot) {
    auto zones = nlohmann::json::array();
    for (const auto& zone : snapshot.zones) zones.push_back(to_value(zone));
    const nlohmann::json all = {
        {"version", snapshot.version},
        {"state", snapshot.degraded.empty() ? "running" : "degraded"},
        {"degraded", snapshot.degraded},
        {"generation", snapshot.generation},
        {"conntrack_count", snapshot.conntrack_count},
        {"conntrack_max", snapshot.conntrack_max},
        {"conntrack_buckets", snapshot.conntrack_buckets},
        {"pressure", to_string(snapshot.pressure)},
        {"cache_state", snapshot.cache_state},
        {"cache_reason", snapshot.cache_reason},
        {"cache_decisions", snapshot.cache_decisions},
        {"cache_capacity", snapshot.cache_capacity},
        {"statistics", snapshot.statistics},
        {"sizing", to_value(snapshot.sizing)},
        {"warnings", snapshot.warnings},
        {"zones", std::move(zones)},
    };
    return all.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
}

} // namespace ctcached
