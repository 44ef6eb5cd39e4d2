// Policy documents by tables.
//
// One table for each mapping of the language: key, type, whether it is required, and the function that reads its value
// into the model. read_mapping() is the only code that walks a mapping: unknown, duplicate and missing keys are its
// business, and nobody else's. schema() returns the same tables as rows.
//
// A type is a name (that of its definition in the JSON schema), the words for "expected ..." and a range. Reading never
// stops: a bad value is reported and leaves the default in the model, so that all errors of all documents come at once.
// What one value cannot tell alone (ports and protocols of an item) is checked where the item has been read; what one
// item cannot tell is in validate.cpp.
#include "policy/parse.hpp"

#include "policy/tree.hpp"
#include "policy/validate.hpp"
#include "policy/values.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <numeric>
#include <set>
#include <utility>

namespace ctcached {
namespace {

using Id = std::uint32_t;

struct Type {
    std::string_view name;
    std::string_view expected;
    Range range{};
};

// --- types ---

constexpr Type version_type{"version", "the version of the language, which is 1", {1, 1}};
constexpr Type boolean_type{"boolean", "true or false"};
// nf_conntrack_max is an int in kernel memory, and 0 would mean "no limit" (net/netfilter/nf_conntrack_core.c).
constexpr Type max_type{"max", "'auto' or a number of entries such as 262144 or 256Ki", {1'024, 2'147'483'647}};
// 2 GiB of memory for the buckets alone; the kernel itself rounds up to whole pages (nf_ct_alloc_hashtable()).
constexpr Type buckets_type{"buckets", "'auto' or a number of buckets such as 262144 or 256Ki", {1'024, 268'435'456}};
constexpr Type memory_type{"memory", "a share of the memory such as 6.25% or a size such as 512MiB", {1, 9'000}};
constexpr Range memory_bytes_range{1U << 20U, std::uint64_t{1} << 40U};
constexpr Type share_type{"share", "a share such as 75%", {1, 10'000}};
constexpr Type interval_type{"interval", "a duration such as 5s", {1, 3'600}};
// The kernel multiplies by HZ (at most 1,000) into an int and refuses what overflows (kernel/sysctl.c,
// do_proc_dointvec_jiffies_conv()).
constexpr Type timeout_type{"timeout", "a duration such as 7200, 90s or 2h 4m", {1, 2'147'483}};
constexpr Type cache_mode_type{"cache-mode", "one of auto, required, off"};
constexpr Type decisions_type{"decisions", "a number of decisions", {1, 65'535}};
constexpr Type proof_type{"proof", "a number of hits, or 0 for never", {0, 4'294'967'295}};
constexpr Type zone_name_type{
    "zone-name", "a zone's name: 1 to 63 letters, digits, '_', '.' and '-', the first one a letter or digit"};
constexpr Type zone_id_type{"zone-id", "a zone id", {1, 65'535}};
constexpr Type direction_type{"direction", "original or both"};
constexpr Type cache_kinds_type{"cache-kinds", "'all', 'none' or a list of route, ipsec, socket and descriptor"};
constexpr Type class_type{"class", "a 32-bit number", {0, 4'294'967'295}};
constexpr Type protocols_type{"protocols", "a protocol's name or number, or a list of them", {0, 255}};
constexpr Type ports_type{"ports", "a port such as 80, a range such as 8000-8100, or a list of them", {0, 65'535}};
constexpr Type subnets_type{"subnets", "an address, a network such as 10.0.0.0/8 or 2001:db8::/32, or a list of them"};
constexpr Type interfaces_type{"interfaces", "an interface such as eth0 or vlan*, or a list of them"};
constexpr Type mark_type{"mark", "a mark such as 0x10, or value/mask such as 0x10/0xf0", {0, 4'294'967'295}};
constexpr Type conntrack_type{"conntrack", "a mapping of settings"};
constexpr Type pressure_type{"pressure", "a mapping of warn, critical, clear and interval"};
constexpr Type timeouts_type{"timeouts", "a mapping of timeouts"};
constexpr Type cache_type{"cache", "a mapping of mode, decisions and proof"};
constexpr Type zones_type{"zones", "a list of zones"};
constexpr Type zone_type{"zone", "a mapping with a name and a match"};
constexpr Type match_list_type{"match-list", "a list of match items"};
constexpr Type match_type{"match", "a mapping such as { protocol: tcp, ports: 80 }"};

// --- reading ---

constexpr std::string_view kind_names[] = {"nothing", "text", "text", "a list", "a mapping", "an alias"};

struct Decoder {
    const Tree& tree;
    std::uint32_t file = 0;
    Diagnostics& diagnostics;

    [[nodiscard]] const TreeNode& node(Id id) const { return tree.nodes[id]; }
    [[nodiscard]] Place place(Id id) const { return {file, node(id).line, node(id).column}; }
    void error(Id id, std::string text) { diagnostics.error(place(id), std::move(text)); }

    void wrong_type(Id id, const Type& type) {
        const NodeKind kind = node(id).kind;
        // Already reported where it stands.
        if (kind == NodeKind::refused) return;
        if (kind == NodeKind::plain || kind == NodeKind::quoted)
            error(id, fmt::format("{} is not {}", quote(tree.scalar(id)), type.expected));
        else
            error(id, fmt::format("{} instead of {}", kind_names[static_cast<int>(kind)], type.expected));
    }
    bool is(Id id, NodeKind kind, const Type& type) {
        if (node(id).kind != kind) wrong_type(id, type);
        return node(id).kind == kind;
    }
    bool is_scalar(Id id, const Type& type) {
        const NodeKind kind = node(id).kind;
        if (kind == NodeKind::plain || kind == NodeKind::quoted) return true;
        wrong_type(id, type);
        return false;
    }

    template <typename Visit>
    void each_child(Id id, Visit visit) {
        for (Id child = id + 1; child < node(id).end; child = node(child).end) visit(child);
    }
};

// A parsed value into its member; false when there is none and the reason was reported.
template <typename T, typename Member>
bool accept(Decoder& d, Id id, const Type& type, Parsed<T> parsed, Member& out) {
    if (parsed) {
        out = static_cast<Member>(std::move(*parsed));
        return true;
    }
    if (parsed.error().empty())
        d.wrong_type(id, type);
    else
        d.error(id, std::move(parsed).error());
    return false;
}

// Which spellings of a scalar a type takes, so that an editor with the JSON schema sees the same language.
enum class Spelling {
    any,      // as a number or as text
    unquoted, // numbers, booleans: "80" in quotes is text
    text,     // names: an unquoted 80 is a number
};

bool spelled(Decoder& d, Id id, const Type& type, Spelling spelling) {
    if (!d.is_scalar(id, type)) return false;
    const bool quoted = d.node(id).kind == NodeKind::quoted;
    const std::string_view text = d.tree.scalar(id);
    if (spelling == Spelling::unquoted && quoted) {
        d.error(id, fmt::format("{} in quotes is text: write it without them", quote(text)));
        return false;
    }
    if (spelling == Spelling::text && !quoted && is_not_text(text)) {
        d.error(id, fmt::format("{} without quotes is not text in YAML: write \"{}\"", quote(text), text));
        return false;
    }
    return true;
}

template <typename T>
struct MemberOf;
template <typename C, typename V>
struct MemberOf<V C::*> {
    using Class = C;
};
template <auto member>
using ClassOf = typename MemberOf<decltype(member)>::Class;

// Reader of one scalar into a member.
template <auto member, auto parse, Spelling spelling = Spelling::any>
void one(Decoder& d, Id id, const Type& type, ClassOf<member>& out) {
    if (spelled(d, id, type, spelling)) accept(d, id, type, parse(d.tree.scalar(id), type.range), out.*member);
}

// Reader of a scalar or a list of scalars into a vector.
template <auto member, auto parse, Spelling spelling = Spelling::any>
void many(Decoder& d, Id id, const Type& type, ClassOf<member>& out) {
    const auto read = [&](Id item) {
        typename std::remove_reference_t<decltype(out.*member)>::value_type value{};
        if (spelled(d, item, type, spelling) && accept(d, item, type, parse(d.tree.scalar(item), type.range), value))
            (out.*member).push_back(std::move(value));
    };
    if (d.node(id).kind != NodeKind::sequence) return read(id);
    if (d.node(id).end == id + 1) return d.error(id, "an empty list, which nothing can match: leave the key out");
    d.each_child(id, read);
}

struct Word {
    std::string_view text;
    int value;
};

// Reader of one word of a closed list into a member.
template <auto member, const auto& words, Spelling spelling = Spelling::any>
void word(Decoder& d, Id id, const Type& type, ClassOf<member>& out) {
    if (!spelled(d, id, type, spelling)) return;
    const auto found =
        std::find_if(std::begin(words), std::end(words), [&](const Word& w) { return w.text == d.tree.scalar(id); });
    if (found == std::end(words)) return d.wrong_type(id, type);
    using Value = std::remove_reference_t<decltype(out.*member)>;
    if constexpr (requires { typename Value::value_type; })
        out.*member = static_cast<typename Value::value_type>(found->value);
    else
        out.*member = static_cast<Value>(found->value);
}

// --- tables ---

template <typename T>
struct Key {
    std::string_view name;
    const Type& type;
    void (*read)(Decoder&, Id, const Type&, T&);
    bool required = false;
};

// T comes from elsewhere, so that tables convert to it.
template <typename T>
using Keys = std::type_identity_t<std::span<const Key<T>>>;

std::size_t edit_distance(std::string_view a, std::string_view b) {
    std::array<std::size_t, 33> row{};
    std::iota(row.begin(), row.end(), std::size_t{0});
    for (std::size_t i = 0; i < a.size(); ++i) {
        std::size_t diagonal = std::exchange(row[0], i + 1);
        for (std::size_t j = 0; j < b.size(); ++j) {
            const std::size_t replaced = diagonal + (a[i] == b[j] ? 0 : 1);
            diagonal = row[j + 1];
            row[j + 1] = std::min({replaced, row[j] + 1, row[j + 1] + 1});
        }
    }
    return row[b.size()];
}

// The key that was probably meant: at most a third of its letters away.
template <typename T>
std::string suggestion(std::string_view wrong, Keys<T> keys) {
    if (wrong.size() > 32) return {};
    const Key<T>* best = nullptr;
    std::size_t best_distance = 0;
    for (const Key<T>& key : keys) {
        const std::size_t distance = edit_distance(wrong, key.name);
        if (distance > (key.name.size() + 2) / 3 || (best != nullptr && distance >= best_distance)) continue;
        best = &key;
        best_distance = distance;
    }
    return best == nullptr ? std::string() : fmt::format(", did you mean '{}'?", best->name);
}

template <typename T>
std::string key_list(Keys<T> keys) {
    std::string text;
    for (const Key<T>& key : keys) text += fmt::format("{}{}", text.empty() ? "" : ", ", key.name);
    return text;
}

template <typename T>
void read_mapping(Decoder& d, Id id, const Type& type, Keys<T> keys, T& out) {
    if (!d.is(id, NodeKind::mapping, type)) return;
    std::vector<Id> seen(keys.size(), 0); // 0 is the root, never a key
    for (Id key = id + 1; key < d.node(id).end;) {
        const Id value = d.node(key).end;
        if (value >= d.node(id).end) break;
        const Id next = d.node(value).end;
        const std::string_view name = d.tree.scalar(key);
        const auto known = std::find_if(keys.begin(), keys.end(), [&](const Key<T>& k) { return k.name == name; });
        const NodeKind kind = d.node(key).kind;
        if (kind != NodeKind::plain && kind != NodeKind::quoted) {
            if (kind != NodeKind::refused) d.error(key, "a key that is not a plain word");
        } else if (known == keys.end()) {
            // Nobody reads the thousandth hint, and they are not cheap.
            const bool readable = d.diagnostics.entries.size() < 1'000;
            auto hint = readable ? suggestion<T>(name, keys) : std::string();
            if (hint.empty() && keys.size() <= 8) hint = fmt::format(", the keys here are {}", key_list<T>(keys));
            d.error(key, fmt::format("unknown key {}{}", quote(name), hint));
        } else if (Id& first = seen[static_cast<std::size_t>(known - keys.begin())]; first != 0) {
            d.error(key, fmt::format("duplicate key '{}', first at {}", name, d.diagnostics.where(d.place(first))));
        } else {
            first = key;
            known->read(d, value, known->type, out);
        }
        key = next;
    }
    for (std::size_t i = 0; i < keys.size(); ++i)
        if (keys[i].required && seen[i] == 0) d.error(id, fmt::format("missing key '{}'", keys[i].name));
}

// A mapping within a mapping.
template <auto member, const auto& keys>
void section(Decoder& d, Id id, const Type& type, ClassOf<member>& out) {
    read_mapping(d, id, type, keys, out.*member);
}

// --- conntrack ---

// As YAML's core schema spells them; yes, no, on and off are text there.
constexpr Word booleans[] = {{"false", 0}, {"False", 0}, {"FALSE", 0}, {"true", 1}, {"True", 1}, {"TRUE", 1}};

void read_memory(Decoder& d, Id id, const Type& type, ConntrackSettings& out) {
    if (!d.is_scalar(id, type)) return;
    const std::string_view text = d.tree.scalar(id);
    if (text.ends_with('%')) {
        if (accept(d, id, type, parse_share(text, type.range), out.memory)) out.memory_bytes.reset();
    } else {
        accept(d, id, type, parse_bytes(text, memory_bytes_range), out.memory_bytes);
    }
}

void read_max(Decoder& d, Id id, const Type& type, ConntrackSettings& out) {
    out.max_place = d.place(id);
    one<&ConntrackSettings::max, parse_count>(d, id, type, out);
}

constexpr Key<PressureSettings> pressure_keys[] = {
    {"warn", share_type, one<&PressureSettings::warn, parse_share>},
    {"critical", share_type, one<&PressureSettings::critical, parse_share>},
    {"clear", share_type, one<&PressureSettings::clear, parse_share>},
    {"interval", interval_type, one<&PressureSettings::interval, parse_duration>},
};

// A key of `timeouts` and the sysctl net.netfilter.nf_conntrack_<sysctl> that it sets
// (net/netfilter/nf_conntrack_standalone.c).
struct Timeout {
    std::string_view key;
    std::string_view sysctl;
};
constexpr Timeout timeouts[] = {
    {"generic", "generic_timeout"},
    {"tcp_syn_sent", "tcp_timeout_syn_sent"},
    {"tcp_syn_recv", "tcp_timeout_syn_recv"},
    {"tcp_established", "tcp_timeout_established"},
    {"tcp_fin_wait", "tcp_timeout_fin_wait"},
    {"tcp_close_wait", "tcp_timeout_close_wait"},
    {"tcp_last_ack", "tcp_timeout_last_ack"},
    {"tcp_time_wait", "tcp_timeout_time_wait"},
    {"tcp_close", "tcp_timeout_close"},
    {"tcp_max_retrans", "tcp_timeout_max_retrans"},
    {"tcp_unacknowledged", "tcp_timeout_unacknowledged"},
    {"udp", "udp_timeout"},
    {"udp_stream", "udp_timeout_stream"},
    {"icmp", "icmp_timeout"},
    {"icmpv6", "icmpv6_timeout"},
    {"gre", "gre_timeout"},
    {"gre_stream", "gre_timeout_stream"},
    {"sctp_closed", "sctp_timeout_closed"},
    {"sctp_cookie_wait", "sctp_timeout_cookie_wait"},
    {"sctp_cookie_echoed", "sctp_timeout_cookie_echoed"},
    {"sctp_established", "sctp_timeout_established"},
    {"sctp_shutdown_sent", "sctp_timeout_shutdown_sent"},
    {"sctp_shutdown_recd", "sctp_timeout_shutdown_recd"},
    {"sctp_shutdown_ack_sent", "sctp_timeout_shutdown_ack_sent"},
    {"sctp_heartbeat_sent", "sctp_timeout_heartbeat_sent"},
};

using Timeouts = std::vector<TimeoutSetting>;

// One reader for each row, as a key table has no place for the row's sysctl.
template <std::size_t row>
void read_timeout(Decoder& d, Id id, const Type& type, Timeouts& out) {
    if (!d.is_scalar(id, type)) return;
    TimeoutSetting setting{d.place(id), std::string(timeouts[row].sysctl), {}};
    if (!accept(d, id, type, parse_duration(d.tree.scalar(id), type.range), setting.value)) return;
    const auto earlier =
        std::find_if(out.begin(), out.end(), [&](const TimeoutSetting& t) { return t.sysctl == setting.sysctl; });
    if (earlier == out.end())
        out.push_back(std::move(setting));
    else
        *earlier = std::move(setting);
}

template <std::size_t... row>
constexpr auto make_timeout_keys(std::index_sequence<row...> /*rows*/) {
    return std::array<Key<Timeouts>, sizeof...(row)>{
        Key<Timeouts>{timeouts[row].key, timeout_type, read_timeout<row>}...};
}
constexpr auto timeout_keys = make_timeout_keys(std::make_index_sequence<std::size(timeouts)>());

void read_pressure(Decoder& d, Id id, const Type& type, ConntrackSettings& out) {
    out.pressure.place = d.place(id);
    section<&ConntrackSettings::pressure, pressure_keys>(d, id, type, out);
}

constexpr Key<ConntrackSettings> conntrack_keys[] = {
    {"max", max_type, read_max},
    {"memory", memory_type, read_memory},
    {"buckets", buckets_type, one<&ConntrackSettings::buckets, parse_count>},
    {"accounting", boolean_type, word<&ConntrackSettings::accounting, booleans, Spelling::unquoted>},
    {"pressure", pressure_type, read_pressure},
    {"timeouts", timeouts_type, section<&ConntrackSettings::timeouts, timeout_keys>},
};

// --- cache ---

constexpr Word cache_modes[] = {{"auto", static_cast<int>(CacheMode::automatic)},
                                {"required", static_cast<int>(CacheMode::required)},
                                {"off", static_cast<int>(CacheMode::off)}};

constexpr Key<CacheSettings> cache_keys[] = {
    {"mode", cache_mode_type, word<&CacheSettings::mode, cache_modes>},
    {"decisions", decisions_type, one<&CacheSettings::decisions, parse_number, Spelling::unquoted>},
    {"proof", proof_type, one<&CacheSettings::proof, parse_number, Spelling::unquoted>},
};

// --- zones ---

constexpr Key<Match> match_keys[] = {
    {"protocol", protocols_type, many<&Match::protocols, parse_protocol>},
    {"ports", ports_type, many<&Match::ports, parse_ports>},
    {"subnets", subnets_type, many<&Match::subnets, parse_subnet>},
    {"source", subnets_type, many<&Match::source, parse_subnet>},
    {"destination", subnets_type, many<&Match::destination, parse_subnet>},
    {"interfaces", interfaces_type, many<&Match::interfaces, parse_interface, Spelling::text>},
    {"mark", mark_type, one<&Match::mark, parse_mark>},
};

// The place of a key's value in a mapping, or of the mapping.
Place value_place(const Decoder& d, Id mapping, std::string_view name) {
    for (Id key = mapping + 1; key < d.node(mapping).end; key = d.node(d.node(key).end).end)
        if (d.tree.scalar(key) == name) return d.place(d.node(key).end);
    return d.place(mapping);
}

bool has_family(const std::vector<Subnet>& subnets, bool ipv6) {
    return subnets.empty() ||
           std::any_of(subnets.begin(), subnets.end(), [&](const Subnet& s) { return s.ipv6 == ipv6; });
}

void check_match(Decoder& d, Id id, const Match& match) {
    if (d.node(id).end == id + 1) d.error(id, "an empty match item: it would take every packet");
    if (!match.ports.empty()) {
        const Place place = value_place(d, id, "ports");
        if (match.protocols.empty())
            d.diagnostics.error(place,
                                "ports without a protocol: add one that has ports, such as 'protocol: [tcp, udp]'");
        // Each one once, however often the list repeats it.
        const std::set<std::uint8_t> protocols(match.protocols.begin(), match.protocols.end());
        for (const std::uint8_t protocol : protocols)
            if (!has_ports(protocol))
                d.diagnostics.error(place,
                                    fmt::format("ports, but protocol {} has none: match it in an item of its own",
                                                protocol_name(protocol)));
    }
    const auto possible = [&](bool ipv6) {
        return has_family(match.subnets, ipv6) && has_family(match.source, ipv6) && has_family(match.destination, ipv6);
    };
    if (!possible(false) && !possible(true))
        d.error(id, "IPv4 and IPv6 addresses that no packet can have at once: write two items");
}

void read_match_list(Decoder& d, Id id, const Type& type, Zone& out) {
    if (!d.is(id, NodeKind::sequence, type)) return;
    if (d.node(id).end == id + 1) d.error(id, "an empty match: no packet could choose this zone");
    d.each_child(id, [&](Id item) {
        Match& match = out.match.emplace_back();
        match.place = d.place(item);
        if (!d.is(item, NodeKind::mapping, match_type)) return;
        read_mapping(d, item, match_type, match_keys, match);
        check_match(d, item, match);
    });
}

void read_name(Decoder& d, Id id, const Type& type, Zone& out) {
    out.place = d.place(id);
    one<&Zone::name, parse_zone_name, Spelling::text>(d, id, type, out);
}

void read_id(Decoder& d, Id id, const Type& type, Zone& out) {
    out.id_place = d.place(id);
    one<&Zone::id, parse_number, Spelling::unquoted>(d, id, type, out);
}

constexpr Word directions[] = {{"original", static_cast<int>(Direction::original)},
                               {"both", static_cast<int>(Direction::both)}};

void read_direction(Decoder& d, Id id, const Type& type, Zone& out) {
    out.direction_place = d.place(id);
    word<&Zone::direction, directions>(d, id, type, out);
}

struct CacheKind {
    std::string_view name;
    bool CacheKinds::*member;
};
constexpr CacheKind cache_kinds[] = {{"route", &CacheKinds::route},
                                     {"ipsec", &CacheKinds::ipsec},
                                     {"socket", &CacheKinds::socket},
                                     {"descriptor", &CacheKinds::descriptor}};

void read_cache_kinds(Decoder& d, Id id, const Type& type, Zone& out) {
    const NodeKind kind = d.node(id).kind;
    const bool all = d.tree.scalar(id) == "all";
    for (const CacheKind& k : cache_kinds) out.cache.*k.member = all;
    if (kind != NodeKind::sequence) {
        if (!all && d.is_scalar(id, type) && d.tree.scalar(id) != "none") d.wrong_type(id, type);
        return;
    }
    if (d.node(id).end == id + 1) d.error(id, "an empty list: write 'none' to cache nothing");
    d.each_child(id, [&](Id item) {
        if (!d.is_scalar(item, type)) return;
        const auto known = std::find_if(std::begin(cache_kinds), std::end(cache_kinds),
                                        [&](const CacheKind& k) { return k.name == d.tree.scalar(item); });
        if (known == std::end(cache_kinds))
            d.error(item, fmt::format("{} is not one of route, ipsec, socket, descriptor", quote(d.tree.scalar(item))));
        else
            out.cache.*known->member = true;
    });
    // The module's own rule (kmod/uapi/nf_ctcache.h): what it keeps of either hangs on a route that it keeps.
    if ((out.cache.ipsec || out.cache.socket) && !out.cache.route)
        d.error(id, fmt::format("{} can be cached only together with route", out.cache.ipsec ? "ipsec" : "socket"));
}

constexpr Key<Zone> zone_keys[] = {
    {"name", zone_name_type, read_name, true},
    {"id", zone_id_type, read_id},
    {"match", match_list_type, read_match_list, true},
    {"direction", direction_type, read_direction},
    {"cache", cache_kinds_type, read_cache_kinds},
    {"class", class_type, one<&Zone::flow_class, parse_number, Spelling::unquoted>},
};

void read_zones(Decoder& d, Id id, const Type& type, Policy& out) {
    if (!d.is(id, NodeKind::sequence, type)) return;
    d.each_child(id, [&](Id item) {
        Zone& zone = out.zones.emplace_back();
        zone.place = d.place(item);
        read_mapping(d, item, zone_type, zone_keys, zone);
    });
}

// --- documents ---

// The version is read on its own, in front of everything else.
void skip(Decoder& /*d*/, Id /*id*/, const Type& /*type*/, Policy& /*out*/) {}

constexpr Key<Policy> policy_keys[] = {
    {"version", version_type, skip, true},
    {"conntrack", conntrack_type, section<&Policy::conntrack, conntrack_keys>},
    {"cache", cache_type, section<&Policy::cache, cache_keys>},
    {"zones", zones_type, read_zones},
};

constexpr Type policy_type{"policy", "a mapping that begins with 'version: 1'"};

// Is this a document of our version? One of another version has other keys, whose errors would only confuse.
bool read_version(Decoder& d) {
    if (d.node(0).kind != NodeKind::mapping) return true;
    for (Id key = 1; key < d.node(0).end; key = d.node(d.node(key).end).end) {
        const Id value = d.node(key).end;
        if (d.tree.scalar(key) != "version") continue;
        if (!spelled(d, value, version_type, Spelling::unquoted)) return true;
        const std::string_view text = d.tree.scalar(value);
        const auto version = parse_number(text, {0, UINT64_MAX});
        if (version && *version == 1) return true;
        if (version)
            d.error(value, fmt::format("unsupported version {}: this program reads version 1", text));
        else
            d.wrong_type(value, version_type);
        return false;
    }
    return true;
}

template <typename T>
void add_rows(std::vector<SchemaKey>& rows, const std::string& prefix, Keys<T> keys) {
    for (const Key<T>& key : keys)
        rows.push_back({prefix + std::string(key.name), std::string(key.type.name), key.required,
                        static_cast<double>(key.type.range.minimum), static_cast<double>(key.type.range.maximum)});
}

} // namespace

Policy parse_policy(std::span<const Source> sources, Diagnostics& diagnostics) {
    Policy policy;
    for (const Source& source : sources) {
        const std::uint32_t file = diagnostics.file(source.name);
        const auto tree = read_tree(source.text, file, diagnostics);
        if (!tree || tree->nodes.empty() || tree->nodes.front().kind == NodeKind::null) continue;
        Decoder decoder{*tree, file, diagnostics};
        if (read_version(decoder)) read_mapping(decoder, 0, policy_type, policy_keys, policy);
    }
    validate(policy, diagnostics);
    diagnostics.sort();
    return policy;
}

std::vector<SchemaKey> schema() {
    std::vector<SchemaKey> rows;
    add_rows<Policy>(rows, "", policy_keys);
    add_rows<ConntrackSettings>(rows, "conntrack.", conntrack_keys);
    add_rows<PressureSettings>(rows, "conntrack.pressure.", pressure_keys);
    add_rows<Timeouts>(rows, "conntrack.timeouts.", timeout_keys);
    add_rows<CacheSettings>(rows, "cache.", cache_keys);
    add_rows<Zone>(rows, "zones[].", zone_keys);
    add_rows<Match>(rows, "zones[].match[].", match_keys);
    return rows;
}

} // namespace ctcached
