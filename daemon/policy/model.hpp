// The policy as values.
//
// What an administrator wrote, parsed, with the place each part came from, and nothing derived: ids, maps and sizes are
// the business of plan/. An optional that is empty means that the policy leaves the choice to the daemon.
#pragma once

#include <array>
#include <chrono>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace ctcached {

// Where a thing was written: `file` indexes Diagnostics::files; line and column count from 1, 0 means "the whole file".
struct Place {
    std::uint32_t file = 0;
    std::uint32_t line = 0;
    std::uint32_t column = 0;

    bool operator==(const Place&) const = default;
};

__extension__ typedef unsigned __int128 u128; // NOLINT(modernize-use-using): __extension__ needs a declaration

enum class Direction { original, both };

// A share in hundredths of a percent: 6.25% is 625.
struct Share {
    std::uint32_t permyriad = 0;

    bool operator==(const Share&) const = default;
};

struct PortRange {
    std::uint16_t first = 0;
    std::uint16_t last = 0;

    bool operator==(const PortRange&) const = default;
};

// An address prefix; the address is in host order, right-aligned (an IPv4 address fills the low 32 bits), host bits 0.
struct Subnet {
    bool ipv6 = false;
    std::uint8_t length = 0; // 0-32 or 0-128
    u128 address = 0;

    bool operator==(const Subnet&) const = default;
};

// An interface name, or the beginning of one ("vlan*" is {"vlan", true}).
struct InterfacePattern {
    std::string name; // 1-15 bytes (IFNAMSIZ - 1); 0-14 with a wildcard
    bool wildcard = false;

    bool operator==(const InterfacePattern&) const = default;
};

// (packet mark & mask) == value
struct MarkMatch {
    std::uint32_t value = 0;
    std::uint32_t mask = 0xffffffff;

    bool operator==(const MarkMatch&) const = default;
};

// One item of a zone's match list: all keys that are present must match, the values of one key are alternatives.
struct Match {
    Place place;
    std::vector<std::uint8_t> protocols; // IANA protocol numbers
    std::vector<PortRange> ports;        // destination ports of the packet that opens the flow
    std::vector<Subnet> subnets;         // its source or its destination
    std::vector<Subnet> source;
    std::vector<Subnet> destination;
    std::vector<InterfacePattern> interfaces; // incoming; outgoing for traffic of the box itself
    std::optional<MarkMatch> mark;
};

// What the module may cache for a zone's flows.
struct CacheKinds {
    bool route = false;
    bool ipsec = false;
    bool socket = false;
    bool descriptor = false;

    bool operator==(const CacheKinds&) const = default;
};

struct Zone {
    Place place;      // of the name's value
    Place id_place;   // of the id's value, where there is one
    std::string name; // 1-63 of [A-Za-z0-9_.-], the first one a letter or digit
    std::optional<std::uint16_t> id;
    Place direction_place;
    std::optional<Direction> direction;
    std::vector<Match> match; // never empty in a valid policy
    CacheKinds cache{.route = true, .ipsec = true, .socket = true, .descriptor = true};
    std::uint32_t flow_class = 0;
};

struct PressureSettings {
    Share warn{7500};
    Share critical{9000};
    Share clear{6500};
    std::chrono::seconds interval{5}; // between two looks at the count
    Place place;                      // of the last mapping that set any of them
};

// One net.netfilter.nf_conntrack_<sysctl> timeout that the policy sets.
struct TimeoutSetting {
    Place place;
    std::string sysctl; // e.g. "tcp_timeout_established"
    std::chrono::seconds value{};

    bool operator==(const TimeoutSetting&) const = default;
};

struct ConntrackSettings {
    std::optional<std::uint64_t> max; // entries; empty: auto
    Place max_place;
    Share memory{625};                         // of MemTotal, for auto
    std::optional<std::uint64_t> memory_bytes; // a fixed size instead of the share
    std::optional<std::uint64_t> buckets;      // empty: auto
    bool accounting = true;
    PressureSettings pressure;
    std::vector<TimeoutSetting> timeouts;
};

enum class CacheMode { automatic, required, off };

struct CacheSettings {
    CacheMode mode = CacheMode::automatic;
    std::uint32_t decisions = 65535;
    std::uint32_t proof = 0;
};

struct Policy {
    ConntrackSettings conntrack;
    CacheSettings cache;
    std::vector<Zone> zones; // in order of precedence
};

constexpr std::string_view to_string(Direction direction) { return direction == Direction::both ? "both" : "original"; }

} // namespace ctcached
