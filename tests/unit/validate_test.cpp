// The `both` rule by exhaustion against a model of the kernel's lookup, and the cross-checks whose texts the golden
// cases do not show.
//
// The model: a flow has two packets. A packet meets the first zone with a matching item. A flow opened by packet P lies
// in P's zone; its reply side lies in that zone, too, when the zone is `both`, else in zone 0. The reply R is looked
// for in the zone that R meets and, unless that is a `both` zone, in zone 0. A policy is sound when no flow loses its
// reply, among all flows that the claims of its `both` zones allow.
#include "policy/validate.hpp"

#include <doctest/doctest.h>
#include <fmt/format.h>

#include <algorithm>
#include <random>

using namespace ctcached;

namespace {

struct Packet {
    std::uint8_t protocol = 0;
    std::uint16_t port = 0; // destination
    int interface = 0;
    std::uint32_t mark = 0;
    std::uint32_t source = 0;
};

bool meets(const Match& match, const Packet& packet) {
    const auto contains = [](const auto& list, const auto& predicate) {
        return list.empty() || std::any_of(list.begin(), list.end(), predicate);
    };
    return contains(match.protocols, [&](std::uint8_t p) { return p == packet.protocol; }) &&
           contains(match.ports, [&](PortRange r) { return r.first <= packet.port && packet.port <= r.last; }) &&
           contains(match.interfaces, [&](const auto& i) { return i.name == std::to_string(packet.interface); }) &&
           contains(match.source, [&](const Subnet& s) { return s.address == packet.source; }) &&
           (!match.mark || (packet.mark & match.mark->mask) == match.mark->value);
}

bool meets(const Zone& zone, const Packet& packet) {
    return std::any_of(zone.match.begin(), zone.match.end(), [&](const Match& m) { return meets(m, packet); });
}

const Zone* zone_of(const Policy& policy, const Packet& packet) {
    for (const Zone& zone : policy.zones)
        if (meets(zone, packet)) return &zone;
    return nullptr;
}

bool both(const Zone* zone) { return zone != nullptr && zone->direction == Direction::both; }

bool reply_found(const Policy& policy, const Packet& packet, const Packet& reply) {
    const Zone* home = zone_of(policy, packet);
    const Zone* replies_lie_in = both(home) ? home : nullptr;
    const Zone* looked_for = zone_of(policy, reply);
    return both(looked_for) ? replies_lie_in == looked_for : replies_lie_in == nullptr;
}

// Do the administrator's claims allow this flow? A `both` zone that has a mark or interface meets both directions or
// none.
bool claimed(const Policy& policy, const Packet& packet, const Packet& reply) {
    return std::all_of(policy.zones.begin(), policy.zones.end(),
                       [&](const Zone& zone) { return !both(&zone) || meets(zone, packet) == meets(zone, reply); });
}

bool loses_a_reply(const Policy& policy) {
    for (const std::uint8_t protocol : {6, 17})
        for (const std::uint16_t port : {1, 2})
            for (int in = 0; in < 3; ++in)
                for (int out = 0; out < 3; ++out)
                    for (std::uint32_t marks = 0; marks < 9; ++marks)
                        for (std::uint32_t sources = 0; sources < 4; ++sources) {
                            const Packet packet{protocol, port, in, marks % 3, sources % 2};
                            const Packet reply{protocol, 9, out, marks / 3, sources / 2};
                            if (claimed(policy, packet, reply) && !reply_found(policy, packet, reply)) return true;
                        }
    return false;
}

Policy random_policy(std::mt19937& random) {
    const auto pick = [&](unsigned n) { return static_cast<unsigned>(random() % n); };
    Policy policy;
    const unsigned zones = 1 + pick(3);
    for (unsigned z = 0; z < zones; ++z) {
        Zone& zone = policy.zones.emplace_back();
        zone.name = fmt::format("z{}", z);
        zone.direction = pick(2) == 0 ? Direction::both : Direction::original;
        const unsigned items = 1 + pick(2);
        for (unsigned i = 0; i < items; ++i) {
            Match& match = zone.match.emplace_back();
            if (pick(2) == 0) match.protocols = {static_cast<std::uint8_t>(pick(2) == 0 ? 6 : 17)};
            if (pick(8) == 0) match.ports = {{1, 1}};
            if (pick(3) == 0) match.interfaces = {{std::to_string(pick(3)), false}};
            if (pick(3) == 0) match.mark = MarkMatch{pick(3), 0xffffffff};
            if (pick(8) == 0) match.source = {{false, 32, pick(2)}};
        }
    }
    return policy;
}

Zone zone(std::string name, Direction direction, Match match) {
    Zone z;
    z.name = std::move(name);
    z.direction = direction;
    z.match = {std::move(match)};
    return z;
}

bool valid(std::vector<Zone> zones) {
    Policy policy;
    policy.zones = std::move(zones);
    Diagnostics diagnostics;
    const bool holds = validate_directions(policy, diagnostics);
    CHECK(holds == diagnostics.empty());
    return holds;
}

Match protocols(std::vector<std::uint8_t> numbers) {
    Match match;
    match.protocols = std::move(numbers);
    return match;
}

Match interfaces(std::vector<InterfacePattern> patterns) {
    Match match;
    match.interfaces = std::move(patterns);
    return match;
}

Match marked(std::uint32_t value, std::uint32_t mask) {
    Match match;
    match.mark = MarkMatch{value, mask};
    return match;
}

} // namespace

TEST_CASE("no policy that passes loses a reply") {
    std::mt19937 random(1);
    int sound = 0;
    int refused = 0;
    for (int i = 0; i < 5'000; ++i) {
        const Policy policy = random_policy(random);
        Diagnostics diagnostics;
        if (!validate_directions(policy, diagnostics)) {
            ++refused;
            continue;
        }
        ++sound;
        if (loses_a_reply(policy)) {
            FAIL_CHECK("policy ", i, " passes and loses replies");
            break;
        }
    }
    CHECK(sound > 500);
    CHECK(refused > 500);
}

TEST_CASE("a both zone may match by protocol, mark and interfaces only") {
    Match ports = protocols({6});
    ports.ports = {{80, 80}};
    Match source = protocols({6});
    source.source = {{false, 8, 0x0a000000}};
    CHECK(valid({zone("a", Direction::both, protocols({6}))}));
    CHECK(valid({zone("a", Direction::both, marked(1, 1))}));
    CHECK(valid({zone("a", Direction::both, interfaces({{"a", false}, {"b", false}}))}));
    CHECK_FALSE(valid({zone("a", Direction::both, ports)}));
    CHECK_FALSE(valid({zone("a", Direction::both, source)}));
    CHECK(valid({zone("a", Direction::original, ports)}));
}

TEST_CASE("an earlier zone must not split the flows of a both zone") {
    Match web = protocols({6});
    web.ports = {{80, 80}};
    const Zone tcp = zone("tcp", Direction::both, protocols({6}));
    const Zone lan = zone("lan", Direction::original, interfaces({{"lan", true}}));
    CHECK_FALSE(valid({zone("web", Direction::original, web), tcp}));
    CHECK(valid({tcp, zone("web", Direction::original, web)}));
    CHECK(valid({zone("web", Direction::original, web), zone("udp", Direction::both, protocols({17}))}));
    CHECK(valid({zone("all-tcp", Direction::original, protocols({6})), tcp}));
    CHECK_FALSE(valid({lan, tcp}));
    CHECK_FALSE(valid({lan, zone("a", Direction::both, interfaces({{"lan0", false}, {"wan", false}}))}));
    CHECK(valid({lan, zone("a", Direction::both, interfaces({{"tun0", false}, {"tun1", false}}))}));
    CHECK_FALSE(valid({zone("m", Direction::original, marked(1, 1)), tcp}));
    CHECK_FALSE(valid({zone("m", Direction::original, marked(1, 1)), zone("a", Direction::both, marked(2, 2))}));
    CHECK(valid({zone("m", Direction::original, marked(1, 3)), zone("a", Direction::both, marked(2, 3))}));
    CHECK(valid({zone("m", Direction::both, marked(1, 1)), tcp}));
}

TEST_CASE("a direction that nobody wrote is original") {
    Match web = protocols({6});
    web.ports = {{80, 80}};
    Zone first = zone("web", Direction::original, web);
    first.direction.reset();
    CHECK_FALSE(valid({first, zone("tcp", Direction::both, protocols({6}))}));
}

TEST_CASE("too many comparisons are refused, not made") {
    std::vector<Zone> zones;
    for (std::uint32_t i = 0; i < 10'000; ++i)
        zones.push_back(zone(fmt::format("a{}", i), Direction::original, marked(i, ~0U)));
    for (std::uint32_t i = 0; i < 10'000; ++i)
        zones.push_back(zone(fmt::format("b{}", i), Direction::both, marked(1U << 31U | i, ~0U)));
    CHECK_FALSE(valid(zones));
}

TEST_CASE("zones beyond 65,535 are an error") {
    Policy policy;
    for (int i = 0; i < 65'535; ++i)
        policy.zones.push_back(zone(fmt::format("z{}", i), Direction::original, protocols({6})));
    Diagnostics fits;
    validate(policy, fits);
    CHECK(fits.empty());
    policy.zones.push_back(zone("one-more", Direction::original, protocols({6})));
    policy.zones.back().place = {0, 7, 3};
    Diagnostics diagnostics;
    validate(policy, diagnostics);
    REQUIRE(diagnostics.entries.size() == 1);
    CHECK(diagnostics.entries[0] == Diagnostic{Severity::error, {0, 7, 3}, "more than 65535 zones"});
}
