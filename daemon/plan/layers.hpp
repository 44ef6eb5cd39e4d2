// Zones as layers of lookups.
//
// "The first zone that matches wins" is a list; a list costs every packet its length. So matches become entries of
// maps, and a packet meets one map per *layer*. An entry is a box: a range of values for each field of its layer. Two
// facts make few layers enough:
//
//  - Entries of the same fields can share a layer whatever their order: where two overlap, the later one keeps only
//  what
//    the earlier one leaves (a box minus a box is a few boxes), so the entries of a layer are disjoint.
//  - Entries of different fields need an order only where they overlap and disagree. An entry goes into the first layer
//    of its fields that lies behind every such earlier entry; if there is none, a new layer is added at the end.
//
// A layer is a hash map unless it needs ranges: prefixes of one common length are masked and hashed, short port ranges
// are written out. Only mixed prefix lengths, long port ranges and interface wildcards make an interval map.
#pragma once

#include "plan/zones.hpp"
#include "policy/diagnostics.hpp"
#include "policy/model.hpp"

#include <compare>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

namespace ctcached {

// In the order in which a key holds them.
enum class FieldKind : std::uint8_t { source4, destination4, source6, destination6, interface, protocol, port, mark };

struct Field {
    FieldKind kind{};
    // mark: the mask of the packet's mark. Address: bits of the common prefix that is compared (32 or 128: all), 0 in
    // an interval layer, where the entries say. Else 0.
    std::uint32_t mask = 0;

    auto operator<=>(const Field&) const = default;
};

// Inclusive; values in host order, as numbers (an interface name: its 16 bytes, the first one highest).
struct Interval {
    u128 first = 0;
    u128 last = 0;

    bool operator==(const Interval&) const = default;
};
using Box = std::vector<Interval>; // one per field of the layer

struct Entry {
    Box box{};
    std::uint16_t zone = 0;
};

struct Layer {
    std::string name{}; // of the map: the fields, "_range" with intervals, "_both", "_2" for the second one of its kind
    std::vector<Field> fields{};
    bool interval = false;
    Direction direction = Direction::original;
    std::vector<Entry> entries{}; // disjoint
};

// `zones`: identities of the policy's zones, same order. Matches that earlier zones leave nothing of get a warning.
[[nodiscard]] std::vector<Layer> plan_layers(const Policy& policy, std::span<const ZoneIdentity> zones,
                                             Diagnostics& diagnostics);

// Bits of a field's values: 8, 16, 32 or 128.
[[nodiscard]] unsigned width(FieldKind kind);
[[nodiscard]] bool is_address(FieldKind kind);

} // namespace ctcached
