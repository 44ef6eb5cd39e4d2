#include "plan/layers.hpp"

#include "plan/box_index.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <bitset>
#include <map>
#include <optional>
#include <set>

namespace ctcached {

namespace {

// What one policy may come to, written out; a kernel map of this size takes some 200 MB.
constexpr std::size_t max_entries = 1U << 20U;
// Above this many entries the port ranges of a group are left to an interval map instead of being written out.
constexpr std::size_t max_written_out = 4096;
// A later entry that earlier ones cut into more pieces than this moves to a layer of its own.
constexpr std::size_t max_pieces = 64;

struct KindTraits {
    const char* name;
    unsigned width;
};
constexpr std::array<KindTraits, 8> kinds{{{"saddr4", 32},
                                           {"daddr4", 32},
                                           {"saddr6", 128},
                                           {"daddr6", 128},
                                           {"iface", 128},
                                           {"proto", 8},
                                           {"port", 16},
                                           {"fwmark", 32}}};

u128 low_bits(unsigned count) { return count >= 128 ? ~u128{0} : (u128{1} << count) - 1; }

Interval range_of(const Subnet& subnet) {
    const unsigned bits = subnet.ipv6 ? 128 : 32;
    return {subnet.address, subnet.address | low_bits(bits - subnet.length)};
}

// A name is compared as the kernel does, byte by byte with zeros behind it; a wildcard is all that begin alike.
Interval range_of(const InterfacePattern& pattern) {
    u128 first = 0;
    for (unsigned i = 0; i < 16; ++i)
        first = first << 8U | (i < pattern.name.size() ? static_cast<unsigned char>(pattern.name[i]) : 0U);
    const auto rest = 8 * (16 - static_cast<unsigned>(pattern.name.size()));
    return {first, pattern.wildcard ? first | low_bits(rest) : first};
}

Interval range_of(const PortRange& ports) { return {ports.first, ports.last}; }
Interval range_of(std::uint8_t protocol) { return {protocol, protocol}; }

// --- items to alternatives: the fields that one form of an item has, and the values of each ---

struct Alternative {
    std::vector<Field> fields;
    std::vector<std::vector<Interval>> values; // by field, never empty
    std::size_t zone = 0;                      // index into the policy
    std::size_t item = 0;                      // index over all items
};

using Subnets = std::optional<std::vector<Subnet>>; // none: any address

bool contains(const Subnet& outer, const Subnet& inner) {
    return outer.ipv6 == inner.ipv6 && outer.length <= inner.length && range_of(outer).last >= inner.address &&
           outer.address <= inner.address;
}

// Prefixes are nested or disjoint, so a common part is one of the two.
Subnets intersect(const Subnets& a, const std::vector<Subnet>& b) {
    if (!a) return b;
    std::vector<Subnet> common;
    for (const Subnet& x : *a)
        for (const Subnet& y : b)
            if (contains(x, y))
                common.push_back(y);
            else if (contains(y, x))
                common.push_back(x);
    return common;
}

Subnets stated(const std::vector<Subnet>& subnets) { return subnets.empty() ? Subnets{} : Subnets{subnets}; }

// "*" is every interface and so no condition. Left in a key it would make nft(8) abort when it lists the table
// (1.0.6, concat_range_aggregate()).
bool any_interface(const Match& match) {
    return match.interfaces.empty() || std::ranges::any_of(match.interfaces, [](const InterfacePattern& pattern) {
               return pattern.wildcard && pattern.name.empty();
           });
}

// A lookup needs a key: a match without any condition becomes every source address.
const std::vector<Subnet> everywhere{{.ipv6 = false, .length = 0, .address = 0},
                                     {.ipv6 = true, .length = 0, .address = 0}};

bool unconditional(const Match& match) {
    return match.protocols.empty() && match.ports.empty() && match.subnets.empty() && match.source.empty() &&
           match.destination.empty() && any_interface(match) && !match.mark;
}

// The address forms of an item: what source and destination may be. `subnets` means either, hence two forms.
std::vector<std::pair<Subnets, Subnets>> address_forms(const Match& match) {
    const Subnets source = stated(unconditional(match) ? everywhere : match.source);
    const Subnets destination = stated(match.destination);
    if (match.subnets.empty()) return {{source, destination}};
    return {{intersect(source, match.subnets), destination}, {source, intersect(destination, match.subnets)}};
}

std::vector<Interval> of_family(const std::vector<Subnet>& subnets, bool ipv6) {
    std::vector<Interval> ranges;
    for (const Subnet& subnet : subnets)
        if (subnet.ipv6 == ipv6) ranges.push_back(range_of(subnet));
    return ranges;
}

template <typename Values>
std::vector<Interval> ranges_of(const Values& values) {
    std::vector<Interval> ranges;
    ranges.reserve(values.size());
    for (const auto& value : values) ranges.push_back(range_of(value));
    return ranges;
}

void append_alternatives(const Match& match, std::size_t zone, std::size_t item, std::vector<Alternative>& out) {
    for (const auto& [source, destination] : address_forms(match)) {
        for (const bool ipv6 : {false, true}) {
            if (!source && !destination && ipv6) break; // no address: one form serves both families
            Alternative form{.fields = {}, .values = {}, .zone = zone, .item = item};
            const auto add = [&](FieldKind kind, std::vector<Interval> ranges, std::uint32_t mask = 0) {
                form.fields.push_back({kind, mask});
                form.values.push_back(std::move(ranges));
            };
            if (source) add(ipv6 ? FieldKind::source6 : FieldKind::source4, of_family(*source, ipv6));
            if (destination)
                add(ipv6 ? FieldKind::destination6 : FieldKind::destination4, of_family(*destination, ipv6));
            if (!any_interface(match)) add(FieldKind::interface, ranges_of(match.interfaces));
            if (!match.protocols.empty()) add(FieldKind::protocol, ranges_of(match.protocols));
            if (!match.ports.empty()) add(FieldKind::port, ranges_of(match.ports));
            if (match.mark) add(FieldKind::mark, {{match.mark->value, match.mark->value}}, match.mark->mask);
            if (std::ranges::none_of(form.values, &std::vector<Interval>::empty)) out.push_back(std::move(form));
        }
    }
}

// --- groups: all alternatives with the same fields and direction ---

struct GroupKey {
    std::vector<Field> fields;
    Direction direction{};
    auto operator<=>(const GroupKey&) const = default;
};

struct Group {
    std::vector<Field> fields{}; // with the common prefix lengths, where the group is a hash
    bool interval = false;
    bool write_out_ports = false;
    std::size_t leading = 0; // the field with the most different values, which an index sorts by
};

u128 size_of(const Interval& range) { return range.last - range.first; } // less one

// How many boxes an alternative comes to; above 2^32 it is no longer exact.
std::size_t combinations(const Alternative& form, bool write_out_ports) {
    std::size_t product = 1;
    for (std::size_t f = 0; f < form.fields.size(); ++f) {
        std::size_t count = form.values[f].size();
        if (write_out_ports && form.fields[f].kind == FieldKind::port)
            for (const Interval& range : form.values[f]) count += static_cast<std::size_t>(size_of(range));
        product = std::min(product * count, std::size_t{1} << 32U);
    }
    return product;
}

Group shape_group(const GroupKey& key, const std::vector<const Alternative*>& members) {
    Group group{.fields = key.fields};
    std::size_t written_out = 0;
    std::vector<std::set<u128>> sizes(key.fields.size());
    std::vector<std::set<u128>> values(key.fields.size());
    for (const Alternative* member : members) {
        written_out += combinations(*member, true);
        for (std::size_t f = 0; f < key.fields.size(); ++f)
            for (const Interval& range : member->values[f]) {
                sizes[f].insert(size_of(range));
                values[f].insert(range.first);
            }
    }
    for (std::size_t f = 0; f < key.fields.size(); ++f) {
        if (values[f].size() > values[group.leading].size()) group.leading = f;
        const bool single_values = sizes[f] == std::set<u128>{0};
        if (is_address(key.fields[f].kind)) {
            const unsigned bits = width(key.fields[f].kind);
            unsigned length = bits;
            while (length > 0 && low_bits(bits - length) < *sizes[f].begin()) --length;
            group.fields[f].mask = length;
            // A prefix of no bits at all has nothing to hash.
            group.interval |= sizes[f].size() > 1 || length == 0;
        } else if (key.fields[f].kind == FieldKind::port && !single_values && written_out <= max_written_out) {
            group.write_out_ports = true;
        } else {
            group.interval |= !single_values;
        }
    }
    if (group.interval) {
        group.fields = key.fields;
        group.write_out_ports = false;
    }
    return group;
}

std::string name_of(const Group& group, Direction direction, std::size_t ordinal) {
    std::string name;
    for (const Field& field : group.fields) {
        fmt::format_to(std::back_inserter(name), "{}{}", name.empty() ? "" : "_",
                       kinds[static_cast<std::size_t>(field.kind)].name);
        if (field.kind == FieldKind::mark && field.mask != 0xffffffff)
            fmt::format_to(std::back_inserter(name), "_{:x}", field.mask);
        if (is_address(field.kind) && field.mask != 0 && field.mask != width(field.kind))
            fmt::format_to(std::back_inserter(name), "_{}", field.mask);
    }
    if (group.interval) name += "_range";
    if (direction == Direction::both) name += "_both";
    if (ordinal > 1) fmt::format_to(std::back_inserter(name), "_{}", ordinal);
    return name;
}

// --- what a layer's entries may meet, for the order between layers of different fields ---

struct Reach {
    bool any_family = false, ipv4 = false, ipv6 = false;
    std::bitset<256> protocols{};
    bool any_interface = false;
    std::vector<Interval> interfaces{};
    std::optional<std::uint16_t> only_zone{}; // of all entries; none when they differ
    bool several_zones = false;
};

Reach reach_of(const std::vector<Field>& fields, const Box& box) {
    Reach reach{.any_family = true, .any_interface = true};
    reach.protocols.set();
    for (std::size_t f = 0; f < fields.size(); ++f) {
        const FieldKind kind = fields[f].kind;
        if (is_address(kind)) {
            reach.any_family = false;
            (width(kind) == 32 ? reach.ipv4 : reach.ipv6) = true;
        } else if (kind == FieldKind::protocol) {
            reach.protocols.reset().set(static_cast<std::size_t>(box[f].first));
        } else if (kind == FieldKind::interface) {
            reach.any_interface = false;
            reach.interfaces = {box[f]};
        }
    }
    return reach;
}

bool may_meet(const Reach& a, const Reach& b) {
    if (!a.any_family && !b.any_family && !(a.ipv4 && b.ipv4) && !(a.ipv6 && b.ipv6)) return false;
    if ((a.protocols & b.protocols).none()) return false;
    if (a.any_interface || b.any_interface) return true;
    for (const Interval& x : a.interfaces)
        for (const Interval& y : b.interfaces)
            if (x.first <= y.last && y.first <= x.last) return true;
    return false;
}

void widen(Reach& reach, const Reach& more) {
    reach.any_family |= more.any_family;
    reach.ipv4 |= more.ipv4;
    reach.ipv6 |= more.ipv6;
    reach.protocols |= more.protocols;
    reach.any_interface |= more.any_interface;
    for (const Interval& range : more.interfaces)
        if (std::ranges::find(reach.interfaces, range) == reach.interfaces.end()) reach.interfaces.push_back(range);
}

// --- the layers while they are built ---

struct OpenLayer {
    const GroupKey* key;
    const Group* group;
    Reach reach; // of all entries so far
    BoxIndex index;
    std::vector<Entry> entries;

    bool foreign_to(std::uint16_t zone) const { return reach.several_zones || reach.only_zone != zone; }
};

class Planner {
public:
    void add(const GroupKey& key, const Group& group, const Box& box, std::uint16_t zone);
    // Nothing of the last added entries of the item was left by earlier zones.
    bool shadowed = true;
    std::vector<OpenLayer> layers;

private:
    bool covered_by_narrower_key(std::size_t target, const GroupKey& key, const Box& box, std::uint16_t zone) const;
    OpenLayer& layer_for(const GroupKey& key, const Group& group, const Box& box, const Reach& reach,
                         std::uint16_t zone);
};

OpenLayer& Planner::layer_for(const GroupKey& key, const Group& group, const Box& box, const Reach& reach,
                              std::uint16_t zone) {
    OpenLayer* target = nullptr;
    for (OpenLayer& layer : layers) {
        if (layer.key == &key) {
            // Behind the last one of its own kind that it overlaps, else the first one that the others leave open.
            if (!target || layer.index.overlaps(box)) target = &layer;
        } else if (target && layer.foreign_to(zone) && may_meet(layer.reach, reach)) {
            target = nullptr;
        }
    }
    if (target) return *target;
    return layers.emplace_back(
        OpenLayer{.key = &key, .group = &group, .reach = {}, .index = BoxIndex(group.leading), .entries = {}});
}

// True when an earlier zone's single entry of fewer fields holds all of the box.
bool Planner::covered_by_narrower_key(std::size_t target, const GroupKey& key, const Box& box,
                                      std::uint16_t zone) const {
    for (std::size_t i = 0; i < target; ++i) {
        const OpenLayer& layer = layers[i];
        if (layer.key == &key || layer.key->fields.size() >= key.fields.size()) continue;
        Box projection;
        for (const Field& field : layer.key->fields)
            if (const auto at = std::ranges::find(key.fields, field); at != key.fields.end())
                projection.push_back(box[static_cast<std::size_t>(at - key.fields.begin())]);
        if (projection.size() != layer.key->fields.size()) continue;
        for (const std::size_t id : layer.index.overlapping(projection))
            if (layer.entries[id].zone != zone && contains(layer.entries[id].box, projection)) return true;
    }
    return false;
}

void Planner::add(const GroupKey& key, const Group& group, const Box& box, std::uint16_t zone) {
    const Reach reach = reach_of(key.fields, box);
    OpenLayer* layer = &layer_for(key, group, box, reach, zone);
    if (covered_by_narrower_key(static_cast<std::size_t>(layer - layers.data()), key, box, zone)) return;

    std::vector<Box> pieces{box};
    for (const std::size_t id : layer->index.overlapping(box)) {
        pieces = subtract(pieces, layer->entries[id].box);
        if (layer->entries[id].zone == zone) shadowed = false;
        if (pieces.size() <= max_pieces) continue;
        // Too many crumbs: a layer of its own behind this one, where it stays whole.
        pieces = {box};
        layer = &layers.emplace_back(
            OpenLayer{.key = &key, .group = &group, .reach = {}, .index = BoxIndex(group.leading), .entries = {}});
        break;
    }
    if (pieces.empty()) return;
    shadowed = false;
    if (layer->entries.empty()) {
        layer->reach = reach;
        layer->reach.only_zone = zone;
    } else {
        widen(layer->reach, reach);
        layer->reach.several_zones |= layer->reach.only_zone != zone;
    }
    for (Box& piece : pieces) {
        layer->index.insert(layer->entries.size(), piece);
        layer->entries.push_back({std::move(piece), zone});
    }
}

// Calls `use` with every combination of the alternative's values; the ports one by one if they are written out.
template <typename Use>
void for_each_box(const Alternative& alternative, bool write_out_ports, Use use) {
    std::vector<std::vector<Interval>> values = alternative.values;
    for (std::size_t f = 0; f < values.size() && write_out_ports; ++f) {
        if (alternative.fields[f].kind != FieldKind::port) continue;
        std::vector<Interval> single;
        for (const Interval& range : values[f])
            for (u128 port = range.first; port <= range.last; ++port) single.push_back({port, port});
        values[f] = std::move(single);
    }
    std::vector<std::size_t> at(values.size(), 0);
    Box box(values.size());
    for (;;) {
        for (std::size_t f = 0; f < values.size(); ++f) box[f] = values[f][at[f]];
        use(box);
        std::size_t f = 0;
        while (f < values.size() && ++at[f] == values[f].size()) at[f++] = 0;
        if (f == values.size()) return;
    }
}

} // namespace

unsigned width(FieldKind kind) { return kinds[static_cast<std::size_t>(kind)].width; }

bool is_address(FieldKind kind) { return kind <= FieldKind::destination6; }

std::vector<Layer> plan_layers(const Policy& policy, std::span<const ZoneIdentity> zones, Diagnostics& diagnostics) {
    std::vector<Alternative> alternatives;
    std::vector<Place> item_places;
    for (std::size_t z = 0; z < policy.zones.size(); ++z)
        for (const Match& match : policy.zones[z].match) {
            append_alternatives(match, z, item_places.size(), alternatives);
            item_places.push_back(match.place);
        }

    std::map<GroupKey, std::vector<const Alternative*>> members;
    std::vector<const GroupKey*> key_of;
    for (const Alternative& form : alternatives) {
        const auto at = members.try_emplace({form.fields, zones[form.zone].direction}).first;
        at->second.push_back(&form);
        key_of.push_back(&at->first);
    }
    std::map<const GroupKey*, Group> groups;
    for (const auto& [key, forms] : members) groups.emplace(&key, shape_group(key, forms));

    std::size_t total = 0;
    for (std::size_t a = 0; a < alternatives.size(); ++a) {
        total += combinations(alternatives[a], groups.at(key_of[a]).write_out_ports);
        if (total <= max_entries) continue;
        diagnostics.error(item_places[alternatives[a].item],
                          fmt::format("the matches up to this one come to more than {} map elements", max_entries));
        return {};
    }

    Planner planner;
    std::vector<bool> shadowed(item_places.size(), true);
    for (std::size_t a = 0; a < alternatives.size(); ++a) {
        const Alternative& form = alternatives[a];
        const Group& group = groups.at(key_of[a]);
        planner.shadowed = true;
        for_each_box(form, group.write_out_ports,
                     [&](const Box& box) { planner.add(*key_of[a], group, box, zones[form.zone].id); });
        if (!planner.shadowed) shadowed[form.item] = false;
    }
    for (std::size_t i = 0; i < shadowed.size(); ++i)
        if (shadowed[i]) diagnostics.warning(item_places[i], "this match never decides: earlier zones match all of it");

    std::vector<Layer> layers;
    std::map<const Group*, std::size_t> ordinals;
    for (OpenLayer& open : planner.layers)
        if (!open.entries.empty())
            layers.push_back({name_of(*open.group, open.key->direction, ++ordinals[open.group]), open.group->fields,
                              open.group->interval, open.key->direction, std::move(open.entries)});
    return layers;
}

} // namespace ctcached
