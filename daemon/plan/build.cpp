#include "plan/build.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cstring>

namespace ctcached {

namespace {

// linux/netfilter.h, linux/netfilter_ipv4.h (enum nf_ip_hook_priorities), linux/icmp.h, linux/icmpv6.h, linux/in.h
constexpr std::uint32_t hook_prerouting = 0, hook_input = 1, hook_output = 3, hook_postrouting = 4;
constexpr std::int32_t priority_raw = -300, before_srcnat = 90;
constexpr char ipv4 = 2, ipv6 = 10; // NFPROTO_*
constexpr char proto_icmp = 1, proto_icmpv6 = 58;
constexpr std::array<char, 5> icmp_errors{3, 4, 5, 11, 12}; // icmp_is_err()
constexpr std::array<char, 4> icmpv6_errors{1, 2, 3, 4};    // below ICMPV6_INFOMSG_MASK

// nftables datatype ids (nft's enum datatypes), 6 bits each in a key type.
constexpr std::uint32_t type_integer = 4;

struct KeyPart {
    std::uint32_t datatype;
    std::uint32_t bytes;
    const char* type_of;
};
// By FieldKind.
constexpr std::array<KeyPart, 8> parts{{{7, 4, "ip saddr"},
                                        {7, 4, "ip daddr"},
                                        {8, 16, "ip6 saddr"},
                                        {8, 16, "ip6 daddr"},
                                        {41, 16, "iifname"},
                                        {12, 1, "meta l4proto"},
                                        {13, 2, "th dport"},
                                        {19, 4, "meta mark"}}};

const KeyPart& part_of(const Field& field) { return parts[static_cast<std::size_t>(field.kind)]; }

constexpr std::uint32_t padded(std::uint32_t bytes) { return (bytes + 3) / 4 * 4; }

// --- values to bytes ---

Bytes big_endian(u128 value, std::uint32_t bytes) {
    Bytes out(bytes, '\0');
    for (std::uint32_t i = bytes; i-- > 0; value >>= 8U) out[i] = static_cast<char>(value & 0xffU);
    return out;
}

template <typename Integer>
Bytes host_order(Integer value) {
    Bytes out(sizeof value, '\0');
    std::memcpy(out.data(), &value, sizeof value);
    return out;
}

// A register holds a mark in host order; ranges are compared byte by byte, so there it is turned (ToNetworkOrder).
Bytes field_bytes(const Field& field, bool interval, u128 value) {
    if (field.kind == FieldKind::mark && !interval) return host_order(static_cast<std::uint32_t>(value));
    return big_endian(value, part_of(field).bytes);
}

Bytes key_bytes(const Layer& layer, const Box& box, u128 Interval::*bound) {
    Bytes key;
    for (std::size_t f = 0; f < layer.fields.size(); ++f) {
        key += field_bytes(layer.fields[f], layer.interval, box[f].*bound);
        if (layer.fields.size() > 1) key.resize(padded(static_cast<std::uint32_t>(key.size())), '\0');
    }
    return key;
}

void append_elements(const Layer& layer, const Entry& entry, std::vector<Element>& out) {
    const Bytes first = key_bytes(layer, entry.box, &Interval::first);
    if (!layer.interval) {
        out.push_back({.key = first, .zone = entry.zone});
        return;
    }
    if (layer.fields.size() > 1) {
        out.push_back({.key = first, .key_end = key_bytes(layer, entry.box, &Interval::last), .zone = entry.zone});
        return;
    }
    // A range of one field is two elements: where it begins, and the first key behind it unless it reaches the end.
    out.push_back({.key = first, .zone = entry.zone});
    Bytes behind = key_bytes(layer, entry.box, &Interval::last);
    auto byte = behind.rbegin();
    while (byte != behind.rend() && ++*byte == 0) ++byte;
    if (byte != behind.rend()) out.push_back({.key = behind, .interval_end = true});
}

Set build_map(const Layer& layer) {
    Set map{.name = layer.name, .map = true, .interval = layer.interval};
    for (const Field& field : layer.fields) {
        const KeyPart& part = part_of(field);
        map.key_type = map.key_type << 6U | part.datatype;
        map.key_bytes += layer.fields.size() > 1 ? padded(part.bytes) : part.bytes;
        map.type_of += fmt::format("{}{}", map.type_of.empty() ? "" : " . ", part.type_of);
        if (layer.interval && layer.fields.size() > 1) map.fields.push_back(static_cast<std::uint8_t>(part.bytes));
    }
    map.elements.reserve(layer.entries.size());
    for (const Entry& entry : layer.entries) append_elements(layer, entry, map.elements);
    std::ranges::sort(map.elements);
    return map;
}

Set build_zones(std::span<const ZoneIdentity> zones) {
    Set set{.name = zones_set, .key_type = type_integer, .key_bytes = 2, .type_of = "ct zone"};
    for (const ZoneIdentity& zone : zones)
        set.elements.push_back({.key = host_order(zone.id), .comment = zone_comment(zone)});
    std::ranges::sort(set.elements);
    return set;
}

// --- rules ---

// Where a layer's rule takes its fields from.
enum class View : std::uint8_t { incoming, outgoing, quoted4, quoted6 };

bool is_quoted(View view) { return view == View::quoted4 || view == View::quoted6; }

// The header fields of the packet itself, or of the one that an ICMP error quotes: turned round, the quoted header lies
// 8 bytes into the ICMP message, without options (IPv4) or extension headers (IPv6).
PayloadLoad load_from(View view, FieldKind kind, std::uint8_t reg) {
    struct Position {
        PayloadBase base;
        std::uint32_t offset;
    };
    using enum PayloadBase;
    // By FieldKind: the packet itself, quoted in ICMP, quoted in ICMPv6.
    static constexpr std::array<std::array<Position, 3>, 8> positions{{
        {{{network, 12}, {transport, 8 + 16}, {}}}, // source4: the quoted destination
        {{{network, 16}, {transport, 8 + 12}, {}}},
        {{{network, 8}, {}, {transport, 8 + 24}}}, // source6
        {{{network, 24}, {}, {transport, 8 + 8}}},
        {},                                                           // interface: meta
        {{{}, {transport, 8 + 9}, {transport, 8 + 6}}},               // protocol; of the packet itself: meta
        {{{transport, 2}, {transport, 8 + 20}, {transport, 8 + 40}}}, // port: the quoted source port
        {},                                                           // mark: meta
    }};
    const std::size_t column = view == View::quoted4 ? 1 : view == View::quoted6 ? 2 : 0;
    const Position& at = positions[static_cast<std::size_t>(kind)][column];
    return {at.base, at.offset, parts[static_cast<std::size_t>(kind)].bytes, reg};
}

void append_load(const Field& field, bool interval, View view, std::uint8_t reg, Rule& rule) {
    switch (field.kind) {
    case FieldKind::interface:
        rule.emplace_back(MetaLoad{view == View::outgoing ? MetaKey::oifname : MetaKey::iifname, reg});
        return;
    case FieldKind::mark:
        rule.emplace_back(MetaLoad{MetaKey::mark, reg});
        if (field.mask != 0xffffffff) rule.emplace_back(BitwiseAnd{reg, host_order(field.mask)});
        if (interval) rule.emplace_back(ToNetworkOrder{reg});
        return;
    case FieldKind::protocol:
        if (is_quoted(view))
            rule.emplace_back(load_from(view, field.kind, reg));
        else
            rule.emplace_back(MetaLoad{MetaKey::l4proto, reg});
        return;
    default:
        rule.emplace_back(load_from(view, field.kind, reg));
        if (is_address(field.kind) && field.mask != 0 && field.mask != width(field.kind)) {
            const unsigned bits = width(field.kind);
            rule.emplace_back(BitwiseAnd{reg, big_endian(~u128{0} << (bits - field.mask), bits / 8)});
        }
    }
}

// 4 or 6 for a layer of addresses, 0 for one that serves both.
int family_of(const Layer& layer) {
    if (layer.fields.empty() || !is_address(layer.fields.front().kind)) return 0;
    return width(layer.fields.front().kind) == 32 ? 4 : 6;
}

// ct original zone set <fields> map @layer accept
Rule layer_rule(const Layer& layer, View view) {
    Rule rule;
    const int family = family_of(layer);
    if (family != 0 && !is_quoted(view)) {
        rule.emplace_back(MetaLoad{MetaKey::nfproto, 0});
        rule.emplace_back(Compare{0, true, Bytes(1, family == 4 ? ipv4 : ipv6)});
    }
    std::uint8_t reg = 0;
    for (const Field& field : layer.fields) {
        append_load(field, layer.interval, view, reg, rule);
        reg = static_cast<std::uint8_t>(reg + padded(part_of(field).bytes) / 4);
    }
    rule.emplace_back(Lookup{layer.name, 0, std::uint8_t{0}});
    rule.emplace_back(ZoneSet{0, layer.direction == Direction::original});
    rule.emplace_back(Verdict{VerdictKind::accept, {}});
    return rule;
}

std::vector<Rule> layer_rules(std::span<const Layer> layers, View view) {
    std::vector<Rule> rules;
    for (const Layer& layer : layers)
        if (!(view == View::quoted4 && family_of(layer) == 6) && !(view == View::quoted6 && family_of(layer) == 4))
            rules.push_back(layer_rule(layer, view));
    return rules;
}

// meta l4proto icmp jump icmp_errors
Rule jump_by_protocol(char protocol, const char* chain) {
    return {MetaLoad{MetaKey::l4proto, 0}, Compare{0, true, Bytes(1, protocol)}, Verdict{VerdictKind::jump, chain}};
}

// @th,0,8 <type> jump quoted4, for each type that quotes a packet
template <std::size_t count>
std::vector<Rule> jumps_by_type(const std::array<char, count>& types, const char* chain) {
    std::vector<Rule> rules;
    rules.reserve(count);
    for (const char type : types)
        rules.push_back({PayloadLoad{PayloadBase::transport, 0, 1, 0}, Compare{0, true, Bytes(1, type)},
                         Verdict{VerdictKind::jump, chain}});
    return rules;
}

} // namespace

std::string zone_comment(const ZoneIdentity& zone) {
    return fmt::format("{} {}", zone.name, to_string(zone.direction));
}

std::optional<ZoneIdentity> zone_of(const Element& element) {
    const auto space = element.comment.rfind(' ');
    if (element.key.size() != 2 || space == std::string::npos || space == 0) return {};
    ZoneIdentity zone{.name = element.comment.substr(0, space)};
    std::memcpy(&zone.id, element.key.data(), sizeof zone.id);
    const std::string_view direction = std::string_view(element.comment).substr(space + 1);
    if (direction == to_string(Direction::both))
        zone.direction = Direction::both;
    else if (direction != to_string(Direction::original))
        return {};
    return zone.id != 0 ? std::optional(std::move(zone)) : std::nullopt;
}

ZoneTable zones_of(const Ruleset& ruleset) {
    ZoneTable zones;
    const auto set = std::ranges::find(ruleset.sets, std::string_view(zones_set), &Set::name);
    if (set == ruleset.sets.end()) return zones;
    for (const Element& element : set->elements)
        if (auto zone = zone_of(element)) zones.push_back(*std::move(zone));
    return zones;
}

Ruleset build_ruleset(std::span<const Layer> layers, std::span<const ZoneIdentity> zones) {
    Ruleset ruleset;
    for (const Layer& layer : layers) ruleset.sets.push_back(build_map(layer));
    ruleset.sets.push_back(build_zones(zones));
    std::ranges::sort(ruleset.sets, {}, &Set::name);

    std::vector<Rule> prerouting{jump_by_protocol(proto_icmp, "icmp_errors"),
                                 jump_by_protocol(proto_icmpv6, "icmpv6_errors")};
    std::ranges::move(layer_rules(layers, View::incoming), std::back_inserter(prerouting));
    // An error whose quoted packet no layer knows stays in zone 0, whatever the layers would say of the error itself.
    std::vector<Rule> quoted4 = layer_rules(layers, View::quoted4);
    std::vector<Rule> quoted6 = layer_rules(layers, View::quoted6);
    for (auto* rules : {&quoted4, &quoted6}) rules->push_back({Verdict{VerdictKind::accept, {}}});
    const Rule count_flow{ZoneLoad{0}, Lookup{zones_set, 0, {}}};

    ruleset.chains = {
        {"icmp_errors", {}, jumps_by_type(icmp_errors, "quoted4")},
        {"icmpv6_errors", {}, jumps_by_type(icmpv6_errors, "quoted6")},
        {"opened", Hook{"nat", hook_postrouting, before_srcnat}, {count_flow}},
        {"opened_local", Hook{"nat", hook_input, before_srcnat}, {count_flow}},
        {"output", Hook{"filter", hook_output, priority_raw}, layer_rules(layers, View::outgoing)},
        {"prerouting", Hook{"filter", hook_prerouting, priority_raw}, std::move(prerouting)},
        {"quoted4", {}, std::move(quoted4)},
        {"quoted6", {}, std::move(quoted6)},
    };
    return ruleset;
}

} // namespace ctcached
