// The order of the rows is the order that introspection and busctl show.
#include "bus/objects.hpp"

#include "base/error.hpp"

#include <cstdlib>
#include <new>

namespace ctcached {

namespace {

constexpr Property<Snapshot> manager_rows[] = {
    {"Version", Emits::constant, [](const Snapshot& s) -> Value { return s.version; }},
    {"State", Emits::change,
     [](const Snapshot& s) -> Value { return std::string(s.degraded.empty() ? "running" : "degraded"); }},
    {"Degraded", Emits::change, [](const Snapshot& s) -> Value { return s.degraded; }},
    {"Generation", Emits::change, [](const Snapshot& s) -> Value { return s.generation; }},
    {"ConntrackCount", Emits::nothing, [](const Snapshot& s) -> Value { return s.conntrack_count; }},
    {"ConntrackMax", Emits::change, [](const Snapshot& s) -> Value { return s.conntrack_max; }},
    {"ConntrackBuckets", Emits::change, [](const Snapshot& s) -> Value { return s.conntrack_buckets; }},
    {"Pressure", Emits::change, [](const Snapshot& s) -> Value { return std::string(to_string(s.pressure)); }},
    {"CacheState", Emits::change, [](const Snapshot& s) -> Value { return s.cache_state; }},
    {"CacheReason", Emits::change, [](const Snapshot& s) -> Value { return s.cache_reason; }},
    {"CacheDecisions", Emits::nothing, [](const Snapshot& s) -> Value { return s.cache_decisions; }},
    {"CacheCapacity", Emits::change, [](const Snapshot& s) -> Value { return s.cache_capacity; }},
    {"Statistics", Emits::nothing, [](const Snapshot& s) -> Value { return s.statistics; }},
    {"Sizing", Emits::nothing, [](const Snapshot& s) -> Value { return s.sizing; }},
    {"Warnings", Emits::change, [](const Snapshot& s) -> Value { return s.warnings; }},
};

constexpr Property<ZoneSnapshot> zone_rows[] = {
    {"Name", Emits::constant, [](const ZoneSnapshot& z) -> Value { return z.name; }},
    {"Id", Emits::change, [](const ZoneSnapshot& z) -> Value { return z.id; }},
    {"Direction", Emits::change, [](const ZoneSnapshot& z) -> Value { return z.direction; }},
    {"Match", Emits::change, [](const ZoneSnapshot& z) -> Value { return z.match; }},
    {"Cache", Emits::change, [](const ZoneSnapshot& z) -> Value { return z.cache; }},
    {"Class", Emits::change, [](const ZoneSnapshot& z) -> Value { return z.flow_class; }},
    {"Links", Emits::change, [](const ZoneSnapshot& z) -> Value { return z.links; }},
    {"Missing", Emits::change, [](const ZoneSnapshot& z) -> Value { return z.missing; }},
    {"Statistics", Emits::nothing, [](const ZoneSnapshot& z) -> Value { return z.statistics; }},
};

} // namespace

std::span<const Property<Snapshot>> manager_properties() { return manager_rows; }
std::span<const Property<ZoneSnapshot>> zone_properties() { return zone_rows; }

std::string zone_path(const std::string& name) {
    char* path = nullptr;
    check(sd_bus_path_encode(zone_prefix, name.c_str(), &path), "D-Bus: object path of a zone");
    const Handle<char, std::free> owned(path);
    return path;
}

std::string zone_name(const char* path) {
    char* name = nullptr;
    const int found = sd_bus_path_decode(path, zone_prefix, &name);
    if (found < 0) throw std::bad_alloc();
    const Handle<char, std::free> owned(name);
    // sd-bus decodes more than it encodes ("a/b", "_61"), and one object must not have two paths.
    return found > 0 && name && zone_path(name) == path ? name : "";
}

} // namespace ctcached
