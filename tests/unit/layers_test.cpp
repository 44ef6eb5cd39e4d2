// The layers against a brute-force reading of "the first zone that matches wins".
#include "plan/layers.hpp"

#include <doctest/doctest.h>
#include <fmt/format.h>

#include <algorithm>
#include <random>

using namespace ctcached;

namespace {

Subnet v4(unsigned a, unsigned b, unsigned c, unsigned d, unsigned length = 32) {
    return {false, static_cast<std::uint8_t>(length), u128{a} << 24U | u128{b} << 16U | u128{c} << 8U | d};
}

Subnet v6(std::uint64_t high, std::uint64_t low, unsigned length) {
    return {true, static_cast<std::uint8_t>(length), u128{high} << 64U | low};
}

struct Packet {
    bool ipv6 = false;
    u128 source = 0, destination = 0;
    std::string interface;
    std::uint8_t protocol = 0;
    std::uint16_t port = 0;
    std::uint32_t mark = 0;
};

bool in(const Subnet& subnet, bool ipv6, u128 address) {
    if (subnet.ipv6 != ipv6) return false;
    const unsigned host = (ipv6 ? 128U : 32U) - subnet.length;
    return host >= 128 || address >> host == subnet.address >> host;
}

bool matches(const Match& match, const Packet& packet) {
    const auto any_subnet = [&](const std::vector<Subnet>& subnets, u128 address) {
        return std::ranges::any_of(subnets, [&](const Subnet& subnet) { return in(subnet, packet.ipv6, address); });
    };
    const auto named = [&](const InterfacePattern& pattern) {
        return pattern.wildcard ? packet.interface.starts_with(pattern.name) : packet.interface == pattern.name;
    };
    if (!match.protocols.empty() && std::ranges::find(match.protocols, packet.protocol) == match.protocols.end())
        return false;
    if (!match.ports.empty() && std::ranges::none_of(match.ports, [&](const PortRange& ports) {
            return ports.first <= packet.port && packet.port <= ports.last;
        }))
        return false;
    if (!match.subnets.empty() && !any_subnet(match.subnets, packet.source) &&
        !any_subnet(match.subnets, packet.destination))
        return false;
    if (!match.source.empty() && !any_subnet(match.source, packet.source)) return false;
    if (!match.destination.empty() && !any_subnet(match.destination, packet.destination)) return false;
    if (!match.interfaces.empty() && std::ranges::none_of(match.interfaces, named)) return false;
    return !match.mark || (packet.mark & match.mark->mask) == match.mark->value;
}

std::uint16_t first_match(const Policy& policy, const ZoneTable& zones, const Packet& packet) {
    for (std::size_t z = 0; z < policy.zones.size(); ++z)
        for (const Match& match : policy.zones[z].match)
            if (matches(match, packet)) return zones[z].id;
    return 0;
}

u128 value_of(const Packet& packet, const Field& field) {
    switch (field.kind) {
    case FieldKind::source4:
    case FieldKind::source6: return packet.source;
    case FieldKind::destination4:
    case FieldKind::destination6: return packet.destination;
    case FieldKind::protocol: return packet.protocol;
    case FieldKind::port: return packet.port;
    case FieldKind::mark: return packet.mark & field.mask;
    case FieldKind::interface: break;
    }
    u128 name = 0;
    for (unsigned i = 0; i < 16; ++i)
        name = name << 8U | (i < packet.interface.size() ? static_cast<unsigned char>(packet.interface[i]) : 0U);
    return name;
}

// What the kernel does: the first layer whose map has the key decides.
std::uint16_t look_up(const std::vector<Layer>& layers, const Packet& packet) {
    for (const Layer& layer : layers) {
        const FieldKind kind = layer.fields.front().kind;
        if (is_address(kind) && (width(kind) == 128) != packet.ipv6) continue;
        std::vector<std::uint16_t> hits;
        for (const Entry& entry : layer.entries) {
            bool hit = true;
            for (std::size_t f = 0; f < layer.fields.size() && hit; ++f) {
                const u128 value = value_of(packet, layer.fields[f]);
                hit = entry.box[f].first <= value && value <= entry.box[f].last;
            }
            if (hit) hits.push_back(entry.zone);
        }
        REQUIRE(hits.size() <= 1); // disjoint
        if (!hits.empty()) return hits.front();
    }
    return 0;
}

ZoneTable number(const Policy& policy, Direction direction = Direction::original) {
    ZoneTable zones;
    for (std::size_t z = 0; z < policy.zones.size(); ++z)
        zones.push_back(
            {policy.zones[z].name, static_cast<std::uint16_t>(z + 1), policy.zones[z].direction.value_or(direction)});
    return zones;
}

Policy policy_of(std::vector<std::vector<Match>> zones) {
    Policy policy;
    for (auto& match : zones) {
        Zone zone;
        zone.name = fmt::format("z{}", policy.zones.size() + 1);
        zone.match = std::move(match);
        policy.zones.push_back(std::move(zone));
    }
    std::uint32_t line = 0;
    for (Zone& zone : policy.zones)
        for (Match& match : zone.match) match.place = {0, ++line, 1};
    return policy;
}

std::vector<Layer> plan(const Policy& policy, Diagnostics& diagnostics) {
    return plan_layers(policy, number(policy), diagnostics);
}

std::vector<Layer> plan(const Policy& policy) {
    Diagnostics diagnostics;
    return plan(policy, diagnostics);
}

std::vector<std::string> names(const std::vector<Layer>& layers) {
    std::vector<std::string> out;
    for (const Layer& layer : layers) out.push_back(layer.name);
    return out;
}

Match ports(std::vector<std::uint8_t> protocols, std::vector<PortRange> ranges) {
    Match match;
    match.protocols = std::move(protocols);
    match.ports = std::move(ranges);
    return match;
}

Match interfaces(std::vector<InterfacePattern> patterns) {
    Match match;
    match.interfaces = std::move(patterns);
    return match;
}

Match source(std::vector<Subnet> subnets) {
    Match match;
    match.source = std::move(subnets);
    return match;
}

Match subnets(std::vector<Subnet> list) {
    Match match;
    match.subnets = std::move(list);
    return match;
}

using Names = std::vector<std::string>;

} // namespace

TEST_CASE("single values and short port ranges make a hash") {
    const auto layers = plan(policy_of({{ports({6}, {{80, 80}, {443, 443}, {8000, 8100}})}}));
    REQUIRE(names(layers) == Names{"proto_port"});
    CHECK_FALSE(layers[0].interval);
    CHECK(layers[0].entries.size() == 103);
}

TEST_CASE("long port ranges make an interval map") {
    const auto layers = plan(policy_of({{ports({6}, {{80, 80}, {1024, 65535}})}}));
    REQUIRE(names(layers) == Names{"proto_port_range"});
    CHECK(layers[0].entries.size() == 2);
}

TEST_CASE("prefixes of one length are hashed, of several lengths not") {
    CHECK(names(plan(policy_of({{source({v4(10, 0, 1, 0, 24), v4(10, 0, 2, 0, 24)})}}))) == Names{"saddr4_24"});
    CHECK(names(plan(policy_of({{source({v4(10, 0, 1, 1)})}}))) == Names{"saddr4"});
    CHECK(names(plan(policy_of({{source({v4(10, 0, 1, 0, 24), v4(10, 1, 0, 0, 16)})}}))) == Names{"saddr4_range"});
    CHECK(names(plan(policy_of({{source({v4(0, 0, 0, 0, 0)})}}))) == Names{"saddr4_range"});
}

TEST_CASE("subnets are a source or a destination, of both families") {
    CHECK(names(plan(policy_of({{subnets({v4(10, 0, 0, 0, 8), v6(0x20010db8ULL << 32U, 0, 32)})}}))) ==
          Names{"saddr4_8", "saddr6_32", "daddr4_8", "daddr6_32"});
}

TEST_CASE("zones of the same fields share a layer in whatever order") {
    const auto layers =
        plan(policy_of({{ports({6}, {{80, 80}})}, {source({v4(10, 0, 0, 1)})}, {ports({17}, {{53, 53}})}}));
    // UDP port 53 may come from 10.0.0.1, which zone 2 has: so it must be asked after it.
    CHECK(names(layers) == Names{"proto_port", "saddr4", "proto_port_2"});
    const auto apart =
        plan(policy_of({{ports({6}, {{80, 80}})}, {interfaces({{"lan0", false}})}, {interfaces({{"lan1", false}})}}));
    CHECK(names(apart) == Names{"proto_port", "iface"});
}

TEST_CASE("layers of both directions are apart") {
    Policy policy = policy_of({{ports({6}, {{80, 80}})}, {interfaces({{"a", false}})}, {interfaces({{"b", false}})}});
    policy.zones[1].direction = Direction::both;
    CHECK(names(plan(policy)) == Names{"proto_port", "iface_both", "iface"});
}

TEST_CASE("a match that earlier zones cover is reported") {
    Diagnostics diagnostics;
    (void)plan(
        policy_of({{source({v4(10, 0, 0, 0, 8)})}, {source({v4(10, 1, 0, 0, 16)})}, {source({v4(11, 0, 0, 0, 8)})}}),
        diagnostics);
    REQUIRE(diagnostics.entries.size() == 1);
    CHECK(diagnostics.entries[0].place.line == 2);

    Diagnostics two_halves;
    (void)plan(policy_of({{source({v4(10, 0, 0, 0, 9), v4(10, 128, 0, 0, 9)})}, {source({v4(10, 0, 0, 0, 8)})}}),
               two_halves);
    CHECK(two_halves.entries.size() == 1);

    Diagnostics fewer_keys;
    Match tcp;
    tcp.protocols = {6};
    (void)plan(policy_of({{tcp}, {ports({6}, {{80, 80}})}, {ports({17, 6}, {{80, 80}})}}), fewer_keys);
    REQUIRE(fewer_keys.entries.size() == 1);
    CHECK(fewer_keys.entries[0].place.line == 2);

    Diagnostics same_zone;
    (void)plan(policy_of({{source({v4(10, 0, 0, 0, 8)}), source({v4(10, 1, 0, 0, 16)})}}), same_zone);
    CHECK(same_zone.empty());
}

TEST_CASE("too many elements are refused") {
    Match match = ports({6, 17}, {{1, 65535}});
    for (unsigned i = 0; i < 1U << 20U; ++i)
        match.source.push_back(v4(10, i >> 16U & 0xffU, i >> 8U & 0xffU, i & 0xffU));
    Diagnostics diagnostics;
    CHECK(plan(policy_of({{match}}), diagnostics).empty());
    CHECK(diagnostics.has_errors());
}

TEST_CASE("random policies: every packet lands where the first match says") {
    std::mt19937 random(1); // NOLINT: repeatable on purpose
    const auto pick = [&](unsigned below) { return static_cast<unsigned>(random() % below); };
    const std::vector<std::uint8_t> protocols{1, 6, 17};
    const std::vector<std::string> links{"lan0", "lan1", "vlan1", "vlan20", "wan"};
    const std::vector<InterfacePattern> patterns{{"lan0", false},  {"lan", true}, {"vlan", true},
                                                 {"vlan1", false}, {"", true},    {"wan", false}};
    // A small world, so that matches overlap: addresses 10.0.0.0-15 and 2001::0-15, ports 1-12, marks 0-7.
    const auto some_subnet = [&] {
        const unsigned cut = pick(4);
        const u128 low = pick(16) >> cut << cut;
        if (pick(2) != 0) return Subnet{true, static_cast<std::uint8_t>(128 - cut), u128{0x2001} << 112U | low};
        return Subnet{false, static_cast<std::uint8_t>(32 - cut), u128{10} << 24U | low};
    };
    const auto some_subnets = [&] {
        std::vector<Subnet> list;
        for (unsigned i = pick(3) + 1; i > 0; --i) list.push_back(some_subnet());
        return list;
    };
    for (int round = 0; round < 400; ++round) {
        std::vector<std::vector<Match>> zones(pick(5) + 1);
        for (auto& zone : zones)
            for (unsigned i = pick(3) + 1; i > 0; --i) {
                Match match;
                if (pick(2) != 0) match.protocols = {protocols[pick(3)]};
                if (pick(3) == 0) {
                    match.protocols = {6, 17};
                    const auto first = static_cast<std::uint16_t>(pick(12) + 1);
                    match.ports = {{first, static_cast<std::uint16_t>(first + pick(round % 2 != 0 ? 6000 : 4))}};
                }
                if (pick(4) == 0) match.subnets = some_subnets();
                if (pick(4) == 0) match.source = some_subnets();
                if (pick(4) == 0) match.destination = some_subnets();
                if (pick(4) == 0) match.interfaces = {patterns[pick(6)]};
                if (pick(4) == 0) {
                    const std::uint32_t mask = pick(2) != 0 ? 3 : 6;
                    match.mark = MarkMatch{pick(8) & mask, mask};
                }
                if (match.protocols.empty() && match.subnets.empty() && match.source.empty() &&
                    match.destination.empty() && match.interfaces.empty() && !match.mark)
                    match.protocols = {protocols[pick(3)]};
                zone.push_back(match);
            }
        const Policy policy = policy_of(zones);
        const ZoneTable ids = number(policy);
        Diagnostics diagnostics;
        const auto layers = plan_layers(policy, ids, diagnostics);
        std::vector<bool> decided(64, false);
        for (int i = 0; i < 300; ++i) {
            const bool ipv6 = pick(2) != 0;
            const u128 net = ipv6 ? u128{0x2001} << 112U : u128{10} << 24U;
            const Packet packet{ipv6,           net | pick(18),     net | pick(18),
                                links[pick(5)], protocols[pick(3)], static_cast<std::uint16_t>(pick(16)),
                                pick(8)};
            const std::uint16_t expected = first_match(policy, ids, packet);
            REQUIRE(look_up(layers, packet) == expected);
            // A match that was called shadowed never decides.
            std::uint32_t line = 0;
            bool found = false;
            for (const Zone& zone : policy.zones)
                for (const Match& match : zone.match) {
                    ++line;
                    if (found || !matches(match, packet)) continue;
                    found = true;
                    for (const Diagnostic& warning : diagnostics.entries) REQUIRE(warning.place.line != line);
                }
        }
    }
}
