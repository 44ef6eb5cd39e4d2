// One table of the daemon's shape as values: every expression, every kind of set.
//
// The socket's test writes it to the kernel and reads it back; the codec's test decodes what kernels dumped for it.
// Both must give this.
#pragma once

#include "plan/diff.hpp"

#include <algorithm>
#include <string>
#include <string_view>
#include <vector>

namespace ctcached::sample {

using namespace std::string_literals;
using namespace std::string_view_literals;

inline Bytes pad(std::string_view bytes, std::size_t length, char with = '\0') {
    Bytes padded(bytes);
    padded.resize(length, with);
    return padded;
}
inline Bytes protocol_port(char protocol, std::uint16_t port) {
    return {protocol, 0, 0, 0, static_cast<char>(port >> 8U), static_cast<char>(port), 0, 0};
}
inline Element start(Bytes key, std::uint16_t zone, Bytes key_end = {}) {
    return {.key = std::move(key), .key_end = std::move(key_end), .interval_end = false, .zone = zone, .comment = {}};
}
inline Element end(Bytes key) {
    return {.key = std::move(key), .key_end = {}, .interval_end = true, .zone = 0, .comment = {}};
}
inline Element named(Bytes key, std::string comment) {
    return {.key = std::move(key), .key_end = {}, .interval_end = false, .zone = 0, .comment = std::move(comment)};
}

struct Shape {
    std::uint32_t key_type;
    std::uint32_t key_bytes;
    std::vector<std::uint8_t> fields;
    bool map;
    bool interval;
};
inline Set make_set(std::string name, std::string type_of, Shape shape, std::vector<Element> elements) {
    Set set;
    set.name = std::move(name);
    set.type_of = std::move(type_of);
    set.key_type = shape.key_type;
    set.key_bytes = shape.key_bytes;
    set.fields = std::move(shape.fields);
    set.map = shape.map;
    set.interval = shape.interval;
    set.elements = std::move(elements);
    std::ranges::sort(set.elements);
    return set;
}

inline std::vector<Set> sets() {
    const auto net6 = "\x20\x01\x0d\xb8"sv;
    return {
        make_set("if0", "iifname", {41, 16, {}, true, true},
                 {end(Bytes(16, '\0')), start(pad("lan0", 16), 10), end(pad("lan0", 15) + '\1'),
                  start(pad("vlan", 16), 11), end(pad("vlao", 16))}),
        make_set("ip4_24", "ip saddr", {7, 4, {}, true, false}, {start("\x0a\x14\x01\x00"s, 12)}),
        make_set("ip4_saddr", "ip saddr", {7, 4, {}, true, true},
                 {end(Bytes(4, '\0')), start("\x0a\x14\x00\x00"s, 12), end("\x0a\x15\x00\x00"s),
                  start("\x0a\x15\x00\x00"s, 13), end("\x0a\x16\x00\x00"s)}),
        make_set("ip6_iif", "ip6 saddr . iifname . meta l4proto . th dport", {0x22930d, 40, {16, 16, 1, 2}, true, true},
                 {start(pad(net6, 16) + pad("vlan", 16) + protocol_port(6, 80), 12,
                        pad(net6, 16, '\xff') + pad("vlan", 16, '\xff') + protocol_port(6, 80)),
                  start(pad(net6, 16) + pad("lan0", 16) + protocol_port(17, 8000), 13,
                        pad(net6, 16) + pad("lan0", 16) + protocol_port(17, 8100))}),
        make_set("markm", "meta mark", {19, 4, {}, true, false}, {start("\x05\x00\x00\x00"s, 13)}),
        make_set("proto_dport", "meta l4proto . th dport", {0x30d, 8, {}, true, false},
                 {start(protocol_port(6, 80), 10), start(protocol_port(6, 443), 65535)}),
        make_set("zones", "ct zone", {4, 2, {}, false, false},
                 {named("\x0a\x00"s, "web original"), named("\x0b\x00"s, "lan both")}),
    };
}

inline std::vector<Chain> chains() {
    constexpr std::uint32_t prerouting = 0; // NF_INET_*
    constexpr std::uint32_t output = 3;
    constexpr std::uint32_t postrouting = 4;
    const Verdict accept{VerdictKind::accept, {}};
    const Compare ipv4{0, true, "\x02"s};
    const Compare ipv6{0, true, "\x0a"s};
    const MetaLoad family{MetaKey::nfproto, 0};
    const PayloadLoad source4{PayloadBase::network, 12, 4, 0};
    const PayloadLoad source6{PayloadBase::network, 8, 16, 0};
    const ZoneSet original{0, true};
    auto port = [](std::uint8_t reg) { return PayloadLoad{PayloadBase::transport, 2, 2, reg}; };
    auto map = [](const char* name) { return Lookup{name, 0, 0}; };
    return {
        {"icmp4",
         {},
         {{PayloadLoad{PayloadBase::transport, 17, 1, 0}, MetaLoad{MetaKey::protocol, 3}, MetaLoad{MetaKey::mark, 5},
           ToNetworkOrder{5}, Verdict{VerdictKind::returns, {}}}}},
        {"nat", Hook{"nat", postrouting, 90}, {{ZoneLoad{0}, Lookup{"zones", 0, {}}}}},
        {"output", Hook{"filter", output, -300}, {{MetaLoad{MetaKey::oifname, 0}, map("if0"), original, accept}}},
        {"prerouting",
         Hook{"filter", prerouting, -300},
         {{MetaLoad{MetaKey::l4proto, 0}, Compare{0, true, "\x01"s}, PayloadLoad{PayloadBase::transport, 0, 1, 0},
           Compare{0, false, "\x03"s}, Verdict{VerdictKind::jump, "icmp4"}},
          {MetaLoad{MetaKey::l4proto, 0}, port(1), map("proto_dport"), original, accept},
          {MetaLoad{MetaKey::iifname, 0}, map("if0"), original, accept},
          {MetaLoad{MetaKey::mark, 0}, BitwiseAnd{0, "\xff\x00\x00\x00"s}, map("markm"), ZoneSet{0, false}, accept},
          {family, ipv4, source4, map("ip4_saddr"), original, accept},
          {family, ipv4, source4, BitwiseAnd{0, "\xff\xff\xff\x00"s}, map("ip4_24"), original, accept},
          {family, ipv6, source6, MetaLoad{MetaKey::iifname, 4}, MetaLoad{MetaKey::l4proto, 8}, port(9), map("ip6_iif"),
           original, accept}}},
    };
}

inline Ruleset ruleset() { return {.sets = sets(), .chains = chains()}; }

// From nothing to `ruleset`.
inline std::vector<Change> creation(const Ruleset& ruleset, AddTable flags) {
    std::vector<Change> changes{flags};
    for (const auto& set : ruleset.sets) {
        auto empty = set;
        empty.elements.clear();
        changes.emplace_back(AddSet{std::move(empty)});
        if (!set.elements.empty()) changes.emplace_back(AddElements{set.name, set.elements});
    }
    for (const auto& chain : ruleset.chains) changes.emplace_back(AddChain{chain.name, chain.hook});
    for (const auto& chain : ruleset.chains)
        for (const auto& rule : chain.rules) changes.emplace_back(AddRule{chain.name, rule});
    return changes;
}

// Equal in all that is compared: not in type_of, which is only written.
inline bool same(const Set& a, const Set& b) {
    return a.name == b.name && a.key_type == b.key_type && a.key_bytes == b.key_bytes && a.fields == b.fields &&
           a.map == b.map && a.interval == b.interval && a.elements == b.elements && a.foreign == b.foreign;
}
inline bool same(const Chain& a, const Chain& b) { return a.name == b.name && a.hook == b.hook && a.rules == b.rules; }
inline bool same(const Ruleset& a, const Ruleset& b) {
    auto equal = [](const auto& x, const auto& y) { return same(x, y); };
    return std::ranges::equal(a.sets, b.sets, equal) && std::ranges::equal(a.chains, b.chains, equal);
}

} // namespace ctcached::sample
