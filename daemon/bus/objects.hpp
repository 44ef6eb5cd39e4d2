// The properties of the D-Bus objects, as tables.
//
// One row per property: its name, how it is read from a snapshot, and what it promises about changes. Vtables, change
// signals and introspection all come from these rows.
#pragma once

#include "bus/message.hpp"
#include "bus/snapshot.hpp"

#include <span>
#include <string>
#include <string_view>

namespace ctcached {

inline constexpr const char* bus_name = "org.ctcached1";
inline constexpr const char* manager_path = "/org/ctcached1";
inline constexpr const char* manager_interface = "org.ctcached1.Manager";
inline constexpr const char* zone_prefix = "/org/ctcached1/zone";
inline constexpr const char* zone_interface = "org.ctcached1.Zone";

// Counters never signal: their readers ask as often as they like.
enum class Emits { constant, change, nothing };

template <typename Subject>
struct Property {
    const char* name;
    Emits emits;
    Value (*read)(const Subject&);
};

[[nodiscard]] std::span<const Property<Snapshot>> manager_properties();
[[nodiscard]] std::span<const Property<ZoneSnapshot>> zone_properties();

template <typename Subject>
[[nodiscard]] const Property<Subject>* find_property(std::span<const Property<Subject>> rows, std::string_view name) {
    for (const auto& row : rows)
        if (name == row.name) return &row;
    return nullptr;
}

// The properties that promise a signal and differ, in the rows' order.
template <typename Subject>
[[nodiscard]] std::vector<const char*> changed_properties(std::span<const Property<Subject>> rows,
                                                          const Subject& before, const Subject& after) {
    std::vector<const char*> names;
    for (const auto& row : rows)
        if (row.emits == Emits::change && row.read(before) != row.read(after)) names.push_back(row.name);
    return names;
}

[[nodiscard]] std::string zone_path(const std::string& name);
// The zone's name; empty for a path that is not one of a zone.
[[nodiscard]] std::string zone_name(const char* path);

} // namespace ctcached
