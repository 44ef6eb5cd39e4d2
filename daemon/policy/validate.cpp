// Cross-checks: what no single key can tell.
//
// The rule for `direction: both`. A packet that meets a `both` zone is looked up in that zone and nowhere else; one
// that meets an `original` zone is looked up in that zone and then in zone 0, where the reply side of every flow lies
// that a `both` zone did not open (Linux 6.1, net/netfilter/nf_conntrack_core.c, resolve_normal_ct(); nf_ct_zone_id()
// gives 0 for the direction that a zone does not cover). So a flow is lost when a `both` zone meets one of its
// directions only:
//
//  - opened in the `both` zone, its replies elsewhere: they lie in the zone and are looked for outside;
//  - opened outside, its replies in the `both` zone: they lie in zone 0 and are looked for in the zone.
//
// Both are excluded when, first, the zone's own match is the same seen from either side, and second, no earlier zone
// takes one direction of a flow and leaves the other. A later zone cannot: first match wins. A protocol is the same
// from either side whatever happens. Ports and addresses are not: a reply has them swapped, and NAT changes them. Marks
// and interfaces are so only if the administrator says so, and `both` is how he says it: "what has one of these marks,
// or comes in by one of these interfaces, is answered likewise". An earlier `original` zone says no such thing, so each
// item of it that names more than protocols can split a flow, unless no packet can meet it and the `both` zone at once.
#include "policy/validate.hpp"

#include "policy/values.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <bitset>
#include <unordered_map>

namespace ctcached {
namespace {

constexpr std::size_t max_zones = 65'535; // zone 0 is the kernel's own

// --- names and ids ---

void check_identities(const Policy& policy, Diagnostics& diagnostics) {
    std::unordered_map<std::string_view, const Zone*> names;
    std::unordered_map<std::uint16_t, const Zone*> ids;
    for (const Zone& zone : policy.zones) {
        // An unreadable name has been reported; two of them are not two equal ones.
        if (!zone.name.empty())
            if (const auto [first, added] = names.emplace(zone.name, &zone); !added)
                diagnostics.error(zone.place, fmt::format("duplicate zone name '{}', first at {}", zone.name,
                                                          diagnostics.where(first->second->place)));
        if (!zone.id) continue;
        if (const auto [first, added] = ids.emplace(*zone.id, &zone); !added)
            diagnostics.error(zone.id_place,
                              fmt::format("zone id {} is already that of '{}' at {}", *zone.id, first->second->name,
                                          diagnostics.where(first->second->id_place)));
    }
    if (policy.zones.size() > max_zones)
        diagnostics.error(policy.zones[max_zones].place, fmt::format("more than {} zones", max_zones));
}

// --- direction: both ---

using ProtocolSet = std::bitset<256>;

// A match reduced to what a packet of either direction can have in common with it.
struct Shape {
    const Zone* zone = nullptr;
    const Match* match = nullptr;
    ProtocolSet protocols;
};

Shape shape_of(const Zone& zone, const Match& match) {
    Shape shape{&zone, &match, {}};
    for (const std::uint8_t protocol : match.protocols) shape.protocols.set(protocol);
    if (match.protocols.empty()) shape.protocols.set();
    return shape;
}

bool overlap(const InterfacePattern& a, const InterfacePattern& b) {
    if (!a.wildcard && !b.wildcard) return a.name == b.name;
    if (a.wildcard && b.wildcard) return a.name.starts_with(b.name) || b.name.starts_with(a.name);
    return a.wildcard ? b.name.starts_with(a.name) : a.name.starts_with(b.name);
}

bool overlap(const std::vector<InterfacePattern>& a, const std::vector<InterfacePattern>& b) {
    if (a.empty() || b.empty()) return true;
    return std::any_of(a.begin(), a.end(), [&](const auto& left) {
        return std::any_of(b.begin(), b.end(), [&](const auto& right) { return overlap(left, right); });
    });
}

bool overlap(const std::optional<MarkMatch>& a, const std::optional<MarkMatch>& b) {
    return !a || !b || ((a->value ^ b->value) & a->mask & b->mask) == 0;
}

// Can one packet meet both?
bool overlap(const Shape& a, const Shape& b) {
    return (a.protocols & b.protocols).any() && overlap(a.match->mark, b.match->mark) &&
           overlap(a.match->interfaces, b.match->interfaces);
}

// What a reply has the other way round, in words; empty: nothing.
std::string_view one_sided(const Match& match) {
    if (!match.ports.empty()) return "ports";
    if (!match.subnets.empty() || !match.source.empty() || !match.destination.empty()) return "addresses";
    return {};
}

// What a reply may have otherwise when nobody says `both`.
std::string_view unclaimed(const Match& match) {
    if (const auto reason = one_sided(match); !reason.empty()) return reason;
    if (!match.interfaces.empty()) return "interfaces";
    return match.mark ? "a mark" : "";
}

Place direction_place(const Zone& zone) { return zone.direction_place.line > 0 ? zone.direction_place : zone.place; }

class BothRule {
public:
    explicit BothRule(Diagnostics& diagnostics) : diagnostics_(diagnostics) {}

    // In the policy's order.
    void add(const Zone& zone) {
        const bool both = zone.direction == Direction::both;
        if (both) check(zone);
        for (const Match& match : zone.match)
            if (!both && !unclaimed(match).empty()) splitters_.push_back(shape_of(zone, match));
    }
    [[nodiscard]] bool holds() const { return holds_; }

private:
    // Far more than any sensible policy needs, and about a second of work.
    static constexpr std::size_t max_comparisons = 50'000'000;

    void check(const Zone& zone) {
        for (const Match& match : zone.match)
            if (const auto reason = one_sided(match); !reason.empty())
                return refuse(zone, fmt::format("its match at {} names {}, which a reply has the other way round or, "
                                                "behind NAT, not at all; leave 'both' out, or match only by protocol, "
                                                "mark or a closed set of interfaces",
                                                diagnostics_.where(match.place), reason));
        for (const Match& match : zone.match) {
            const Shape shape = shape_of(zone, match);
            const auto splitter = std::find_if(splitters_.begin(), splitters_.end(), [&](const Shape& earlier) {
                comparisons_ += 1 + earlier.match->interfaces.size() * match.interfaces.size();
                return comparisons_ > max_comparisons || overlap(earlier, shape);
            });
            if (comparisons_ > max_comparisons)
                return refuse(zone, "there are too many earlier zones to compare it with; move it in front of them");
            if (splitter != splitters_.end())
                return refuse(
                    zone, fmt::format("the earlier zone '{}' names {} at {} and so can take one direction of a flow "
                                      "and leave the other to this zone, which would not find the flow; move this "
                                      "zone in front of it, leave 'both' out, or give them different protocols",
                                      splitter->zone->name, unclaimed(*splitter->match),
                                      diagnostics_.where(splitter->match->place)));
        }
    }

    void refuse(const Zone& zone, const std::string& why) {
        holds_ = false;
        diagnostics_.error(direction_place(zone),
                           fmt::format("zone '{}' cannot have direction 'both': {}", zone.name, why));
    }

    Diagnostics& diagnostics_;
    std::vector<Shape> splitters_; // items of earlier zones that can take one direction only
    std::size_t comparisons_ = 0;
    bool holds_ = true;
};

// --- lints ---

struct Helper {
    std::string_view name;
    std::uint8_t protocol;
    std::uint16_t port;
};

// Control ports of the conntrack helpers (net/netfilter/nf_conntrack_{ftp,sip,...}.c).
constexpr Helper helpers[] = {
    {"FTP", 6, 21},      {"TFTP", 17, 69},   {"NetBIOS", 17, 137}, {"SNMP", 17, 161},
    {"H.323", 17, 1719}, {"H.323", 6, 1720}, {"PPTP", 6, 1723},    {"SIP", 6, 5060},
    {"SIP", 17, 5060},   {"SANE", 6, 6566},  {"IRC", 6, 6667},     {"Amanda", 17, 10080},
};

// A wide range has the data connections as well.
bool names_port(const Match& match, const Helper& helper) {
    constexpr int wide = 1024;
    return std::find(match.protocols.begin(), match.protocols.end(), helper.protocol) != match.protocols.end() &&
           std::any_of(match.ports.begin(), match.ports.end(), [&](const PortRange& range) {
               return range.first <= helper.port && helper.port <= range.last && range.last - range.first < wide;
           });
}

bool all_of_family(const std::vector<Subnet>& subnets, bool ipv6) {
    return !subnets.empty() &&
           std::all_of(subnets.begin(), subnets.end(), [&](const Subnet& subnet) { return subnet.ipv6 == ipv6; });
}

struct FamilyProtocol {
    std::uint8_t protocol;
    bool ipv6;
};
constexpr FamilyProtocol family_protocols[] = {{1, false}, {2, false}, {58, true}};

void lint_match(const Zone& zone, const Match& match, Diagnostics& diagnostics) {
    for (const Helper& helper : helpers)
        if (names_port(match, helper))
            diagnostics.warning(
                match.place,
                fmt::format("zone '{}' takes the control port of {} ({}/{}): where a conntrack helper is in "
                            "use, data connections would miss the zone and the helper's expectation; "
                            "match by subnets, interfaces or protocol alone",
                            zone.name, helper.name, helper.port, protocol_name(helper.protocol)));
    for (const FamilyProtocol& only : family_protocols) {
        const bool named =
            std::find(match.protocols.begin(), match.protocols.end(), only.protocol) != match.protocols.end();
        const bool other = all_of_family(match.subnets, !only.ipv6) || all_of_family(match.source, !only.ipv6) ||
                           all_of_family(match.destination, !only.ipv6);
        if (named && other)
            diagnostics.warning(match.place, fmt::format("{} is a protocol of {} alone: no packet has it together with "
                                                         "these addresses",
                                                         protocol_name(only.protocol), only.ipv6 ? "IPv6" : "IPv4"));
    }
}

void lint_directions(const Zone& zone, Diagnostics& diagnostics) {
    if (zone.direction != Direction::both) return;
    std::vector<InterfacePattern> interfaces;
    for (const Match& match : zone.match) {
        if (match.interfaces.empty()) return;
        interfaces.insert(interfaces.end(), match.interfaces.begin(), match.interfaces.end());
    }
    if (interfaces.size() == 1 && !interfaces.front().wildcard)
        diagnostics.warning(direction_place(zone),
                            fmt::format("zone '{}' has direction 'both' and the one interface '{}': a flow that is "
                                        "forwarded to or from another interface would lose its replies",
                                        zone.name, interfaces.front().name));
}

struct TimeoutFloor {
    std::string_view sysctl;
    std::int64_t seconds;
    std::string_view source;
};
constexpr TimeoutFloor timeout_floors[] = {
    {"tcp_timeout_established", 7440, "RFC 5382, REQ-5: 2 hours 4 minutes"},
    {"udp_timeout_stream", 120, "RFC 4787, REQ-5: 2 minutes"},
    {"icmp_timeout", 60, "RFC 5508, REQ-2: 1 minute"},
};
constexpr std::int64_t long_established = 86'400;

void lint_timeouts(const ConntrackSettings& conntrack, Diagnostics& diagnostics) {
    for (const TimeoutSetting& timeout : conntrack.timeouts) {
        for (const TimeoutFloor& floor : timeout_floors)
            if (timeout.sysctl == floor.sysctl && timeout.value.count() < floor.seconds)
                diagnostics.warning(timeout.place,
                                    fmt::format("{} of {} s is too short for NAT: idle flows break before "
                                                "their hosts expect it ({})",
                                                timeout.sysctl, timeout.value.count(), floor.source));
        if (timeout.sysctl == "tcp_timeout_established" && timeout.value.count() > long_established)
            diagnostics.warning(
                timeout.place,
                fmt::format("{} of {} s keeps the connections of hosts that went away for more than a day",
                            timeout.sysctl, timeout.value.count()));
    }
}

void lint_sizes(const ConntrackSettings& conntrack, Diagnostics& diagnostics) {
    constexpr std::uint64_t small = 65'536;
    constexpr std::uint64_t far = 8;
    if (!conntrack.max) return;
    if (*conntrack.max < small)
        diagnostics.warning(conntrack.max_place,
                            fmt::format("a table of {} entries is small: one that is full refuses new "
                                        "flows, and {} cost about 25 MiB",
                                        *conntrack.max, small));
    if (!conntrack.buckets) return;
    if (*conntrack.max > far * *conntrack.buckets)
        diagnostics.warning(conntrack.max_place,
                            fmt::format("{} entries in {} buckets: every lookup walks a list of about "
                                        "{} when the table is full",
                                        *conntrack.max, *conntrack.buckets, *conntrack.max / *conntrack.buckets));
    if (*conntrack.buckets > far * *conntrack.max)
        diagnostics.warning(conntrack.max_place, fmt::format("{} buckets for {} entries: most of them stay empty",
                                                             *conntrack.buckets, *conntrack.max));
}

void check_pressure(const PressureSettings& pressure, Diagnostics& diagnostics) {
    constexpr std::uint32_t near = 200; // 2 %
    const auto percent = [](Share share) { return static_cast<double>(share.permyriad) / 100; };
    const std::uint32_t clear = pressure.clear.permyriad;
    const std::uint32_t warn = pressure.warn.permyriad;
    const std::uint32_t critical = pressure.critical.permyriad;
    if (clear >= warn || warn >= critical)
        diagnostics.error(pressure.place,
                          fmt::format("clear ({}%) must be below warn ({}%), and warn below critical ({}%)",
                                      percent(pressure.clear), percent(pressure.warn), percent(pressure.critical)));
    else if (warn - clear < near || critical - warn < near)
        diagnostics.warning(pressure.place,
                            fmt::format("clear ({}%), warn ({}%) and critical ({}%) are closer than {}%: the "
                                        "state would change all the time",
                                        percent(pressure.clear), percent(pressure.warn), percent(pressure.critical),
                                        near / 100));
}

} // namespace

bool validate_directions(const Policy& policy, Diagnostics& diagnostics) {
    BothRule rule(diagnostics);
    for (const Zone& zone : policy.zones) rule.add(zone);
    return rule.holds();
}

void validate(const Policy& policy, Diagnostics& diagnostics) {
    check_identities(policy, diagnostics);
    validate_directions(policy, diagnostics);
    check_pressure(policy.conntrack.pressure, diagnostics);
    lint_sizes(policy.conntrack, diagnostics);
    lint_timeouts(policy.conntrack, diagnostics);
    for (const Zone& zone : policy.zones) {
        lint_directions(zone, diagnostics);
        for (const Match& match : zone.match) lint_match(zone, match, diagnostics);
    }
}

} // namespace ctcached
