// Hand-written, because the library functions are too kind: strtoul() takes " -1", inet_aton() takes "10.1", and both
// take leading zeros, which one reader sees as octal and the next one does not. What this file refuses cannot be
// misunderstood later.
//
// IPv6 text follows RFC 4291, section 2.2, and is written back as RFC 5952 says. Protocol names are those of
// /etc/protocols and of nft(8), which both take theirs from the IANA registry.
#include "policy/values.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <limits>
#include <utility>

namespace ctcached {
namespace {

constexpr ProtocolName names[] = {
    {"ah", 51},      {"dccp", 33},   {"egp", 8},       {"eigrp", 88}, {"encap", 98},     {"esp", 50},   {"etherip", 97},
    {"fc", 133},     {"gre", 47},    {"hip", 139},     {"icmp", 1},   {"icmpv6", 58},    {"igmp", 2},   {"igp", 9},
    {"ipcomp", 108}, {"ipencap", 4}, {"ipip", 4},      {"ipv6", 41},  {"ipv6-icmp", 58}, {"isis", 124}, {"l2tp", 115},
    {"manet", 138},  {"mpls", 137},  {"ospf", 89},     {"pim", 103},  {"rdp", 27},       {"rsvp", 46},  {"sctp", 132},
    {"tcp", 6},      {"udp", 17},    {"udplite", 136}, {"vrrp", 112}};

// Those whose header starts with two 16-bit ports.
constexpr std::uint8_t protocols_with_ports[] = {6, 17, 33, 132, 136};

std::unexpected<std::string> no(std::string reason = {}) { return std::unexpected(std::move(reason)); }

bool is_digit(char c) { return c >= '0' && c <= '9'; }

int hex_digit(char c) {
    if (is_digit(c)) return c - '0';
    if (c >= 'a' && c <= 'f') return c - 'a' + 10;
    if (c >= 'A' && c <= 'F') return c - 'A' + 10;
    return -1;
}

// Takes a run of digits off the front; nothing when there is none, when it has a leading zero, or when it is too long
// to matter (19 digits fit 64 bits).
std::optional<std::uint64_t> take_decimal(std::string_view& text) {
    const auto end = std::find_if_not(text.begin(), text.end(), is_digit);
    const auto length = static_cast<std::size_t>(end - text.begin());
    if (length == 0 || length > 19 || (length > 1 && text.front() == '0')) return std::nullopt;
    std::uint64_t value = 0;
    for (const char c : text.substr(0, length)) value = value * 10 + static_cast<std::uint64_t>(c - '0');
    text.remove_prefix(length);
    return value;
}

// A whole text as a number, without a range.
std::optional<std::uint64_t> number(std::string_view text) {
    if (!text.starts_with("0x")) {
        const auto value = take_decimal(text);
        return text.empty() ? value : std::nullopt;
    }
    text.remove_prefix(2);
    if (text.empty() || text.size() > 16) return std::nullopt;
    std::uint64_t value = 0;
    for (const char c : text) {
        if (hex_digit(c) < 0) return std::nullopt;
        value = value << 4U | static_cast<std::uint64_t>(hex_digit(c));
    }
    return value;
}

bool all_digits(std::string_view text) { return !text.empty() && std::all_of(text.begin(), text.end(), is_digit); }

template <typename T = std::uint64_t>
Parsed<T> in_range(std::uint64_t value, std::string_view text, Range range) {
    if (value >= range.minimum && value <= range.maximum) return static_cast<T>(value);
    return no(fmt::format("{} is out of range: {} to {}", quote(text), range.minimum, range.maximum));
}

struct Unit {
    std::string_view name;
    std::uint64_t factor;
};

const Unit* find_unit(std::span<const Unit> units, std::string_view name) {
    const auto unit = std::find_if(units.begin(), units.end(), [&](const Unit& u) { return u.name == name; });
    return unit == units.end() ? nullptr : &*unit;
}

std::string unit_names(std::span<const Unit> units) {
    std::string text;
    for (const Unit& unit : units) text += fmt::format("{}{}", text.empty() ? "" : ", ", unit.name);
    return text;
}

// value * factor + plus, or the largest number instead of an overflow: every range refuses that one.
std::uint64_t scale(std::uint64_t value, std::uint64_t factor, std::uint64_t plus = 0) {
    std::uint64_t product = 0;
    if (__builtin_mul_overflow(value, factor, &product) || __builtin_add_overflow(product, plus, &product))
        return std::numeric_limits<std::uint64_t>::max();
    return product;
}

std::optional<u128> parse_ipv4(std::string_view text) {
    std::uint64_t address = 0;
    for (int i = 0; i < 4; ++i) {
        if (i > 0) {
            if (!text.starts_with('.')) return std::nullopt;
            text.remove_prefix(1);
        }
        const auto byte = take_decimal(text);
        if (!byte || *byte > 255) return std::nullopt;
        address = address << 8U | *byte;
    }
    return text.empty() ? std::optional<u128>(address) : std::nullopt;
}

// Groups of one side of "::"; -1 for malformed text. The last group may be an IPv4 address (two groups).
int parse_groups(std::string_view text, std::array<std::uint16_t, 8>& groups) {
    int count = 0;
    while (!text.empty()) {
        const std::size_t colon = text.find(':');
        const std::string_view group = text.substr(0, colon);
        if (colon == std::string_view::npos && group.find('.') != std::string_view::npos) {
            const auto v4 = parse_ipv4(group);
            if (!v4 || count > 6) return -1;
            groups[static_cast<std::size_t>(count++)] = static_cast<std::uint16_t>(*v4 >> 16U);
            groups[static_cast<std::size_t>(count++)] = static_cast<std::uint16_t>(*v4);
            return count;
        }
        if (group.empty() || group.size() > 4 || count == 8) return -1;
        std::uint16_t value = 0;
        for (const char c : group) {
            if (hex_digit(c) < 0) return -1;
            value = static_cast<std::uint16_t>(value << 4 | hex_digit(c));
        }
        groups[static_cast<std::size_t>(count++)] = value;
        if (colon == std::string_view::npos) return count;
        text.remove_prefix(colon + 1);
        if (text.empty()) return -1;
    }
    return count;
}

std::optional<u128> parse_ipv6(std::string_view text) {
    std::array<std::uint16_t, 8> head{};
    std::array<std::uint16_t, 8> tail{};
    int heads = 0;
    int tails = 0;
    if (const std::size_t gap = text.find("::"); gap != std::string_view::npos) {
        const std::string_view left = text.substr(0, gap);
        // An IPv4 address may only stand at the end.
        heads = left.find('.') == std::string_view::npos ? parse_groups(left, head) : -1;
        tails = parse_groups(text.substr(gap + 2), tail);
        if (heads < 0 || tails < 0 || heads + tails > 7) return std::nullopt;
    } else {
        heads = parse_groups(text, head);
        if (heads != 8) return std::nullopt;
    }
    if (tails > 0) std::copy_n(tail.begin(), tails, head.end() - tails);
    u128 address = 0;
    for (const std::uint16_t group : head) address = address << 16U | group;
    return address;
}

std::string ipv6_text(u128 address) {
    std::array<unsigned, 8> groups{};
    for (std::size_t i = 0; i < 8; ++i) groups[i] = static_cast<unsigned>(address >> (112 - 16 * i)) & 0xffffU;
    // The first longest run of at least two zero groups becomes "::".
    std::size_t gap = 8;
    std::size_t gap_length = 1;
    for (std::size_t i = 0; i < 8; ++i) {
        std::size_t length = 0;
        while (i + length < 8 && groups[i + length] == 0) ++length;
        if (length > gap_length) {
            gap = i;
            gap_length = length;
        }
    }
    std::string text;
    for (std::size_t i = 0; i < 8;) {
        if (i == gap) {
            text += "::";
            i += gap_length;
            continue;
        }
        if (!text.empty() && text.back() != ':') text += ':';
        text += fmt::format("{:x}", groups[i++]);
    }
    return text;
}

} // namespace

std::string quote(std::string_view text) {
    constexpr std::size_t limit = 48;
    const bool cut = text.size() > limit;
    // Not in the middle of a character.
    std::size_t length = std::min(text.size(), limit);
    while (cut && length > 0 && (static_cast<unsigned char>(text[length]) & 0xc0U) == 0x80) --length;
    std::string shown;
    for (const char c : text.substr(0, length)) {
        if (static_cast<unsigned char>(c) < 0x20 || c == 0x7f)
            shown += fmt::format("\\x{:02x}", static_cast<unsigned char>(c));
        else
            shown += c;
    }
    return fmt::format("'{}{}'", shown, cut ? "..." : "");
}

Parsed<std::uint64_t> parse_number(std::string_view text, Range range) {
    const auto value = number(text);
    if (value) return in_range(*value, text, range);
    if (!all_digits(text)) return no();
    if (text.size() > 1 && text.front() == '0')
        return no(fmt::format("{} has a leading zero, which some readers take for octal", quote(text)));
    return in_range(std::numeric_limits<std::uint64_t>::max(), text, range);
}

Parsed<std::optional<std::uint64_t>> parse_count(std::string_view text, Range range) {
    constexpr Unit units[] = {{"k", 1'000}, {"M", 1'000'000}, {"Ki", 1U << 10U}, {"Mi", 1U << 20U}};
    if (text == "auto") return std::nullopt;
    std::string_view rest = text;
    const auto value = take_decimal(rest);
    if (!value || rest.empty() || text.starts_with("0x")) return parse_number(text, range);
    const Unit* unit = find_unit(units, rest);
    if (unit == nullptr)
        return no(fmt::format("{} has an unknown unit: k and M are thousands and millions, Ki and Mi 1,024 and "
                              "1,048,576",
                              quote(text)));
    return in_range(scale(*value, unit->factor), text, range);
}

Parsed<Share> parse_share(std::string_view text, Range range) {
    if (!text.ends_with('%')) return no();
    std::string_view rest = text.substr(0, text.size() - 1);
    const auto whole = take_decimal(rest);
    if (!whole) return no();
    std::uint64_t fraction = 0;
    if (!rest.empty()) {
        const std::string_view digits = rest.substr(1);
        if (rest.front() != '.' || !all_digits(digits) || digits.size() > 2) return no();
        for (const char c : digits) fraction = fraction * 10 + static_cast<std::uint64_t>(c - '0');
        if (digits.size() == 1) fraction *= 10;
    }
    const std::uint64_t permyriad = scale(*whole, 100, fraction);
    if (permyriad < range.minimum || permyriad > range.maximum)
        return no(fmt::format("{} is out of range: {}% to {}%", quote(text), static_cast<double>(range.minimum) / 100,
                              static_cast<double>(range.maximum) / 100));
    return Share{static_cast<std::uint32_t>(permyriad)};
}

Parsed<std::uint64_t> parse_bytes(std::string_view text, Range range) {
    constexpr Unit units[] = {{"B", 1},           {"kB", 1'000},      {"MB", 1'000'000}, {"GB", 1'000'000'000},
                              {"KiB", 1U << 10U}, {"MiB", 1U << 20U}, {"GiB", 1U << 30U}};
    std::string_view rest = text;
    const auto value = take_decimal(rest);
    if (!value) return no();
    const Unit* unit = find_unit(units, rest);
    if (unit == nullptr)
        return no(fmt::format("{} needs a unit: {} or, of the whole memory, %", quote(text), unit_names(units)));
    return in_range(scale(*value, unit->factor), text, range);
}

Parsed<std::chrono::seconds> parse_duration(std::string_view text, Range range) {
    constexpr Unit units[] = {{"d", 86'400}, {"h", 3'600}, {"m", 60}, {"s", 1}};
    if (all_digits(text)) {
        const auto value = parse_number(text, range);
        if (!value) return no(value.error());
        return std::chrono::seconds(*value);
    }
    std::uint64_t total = 0;
    std::uint64_t smallest = std::numeric_limits<std::uint64_t>::max();
    if (text.empty()) return no();
    for (std::string_view rest = text; !rest.empty();) {
        const auto value = take_decimal(rest);
        if (!value) return no();
        const auto end = std::find_if(rest.begin(), rest.end(), [](char c) { return c == ' ' || is_digit(c); });
        const auto length = static_cast<std::size_t>(end - rest.begin());
        const std::string_view name = rest.substr(0, length);
        const Unit* unit = find_unit(units, name);
        if (name == "ms" || name == "us") return no(fmt::format("{} is not in whole seconds", quote(text)));
        if (unit == nullptr) return no(fmt::format("{} needs units: {}", quote(text), unit_names(units)));
        if (unit->factor >= smallest) return no(fmt::format("{} has its units not from large to small", quote(text)));
        smallest = unit->factor;
        total = scale(*value, unit->factor, total);
        rest.remove_prefix(length);
        if (rest.starts_with(' ') && rest.size() > 1) rest.remove_prefix(1);
    }
    auto value = in_range(total, text, range);
    if (!value) return no(value.error() + " seconds");
    return std::chrono::seconds(*value);
}

Parsed<PortRange> parse_ports(std::string_view text, Range range) {
    const std::size_t dash = text.find('-');
    const auto first = parse_number(text.substr(0, dash), range);
    if (!first) return no(first.error());
    if (dash == std::string_view::npos)
        return PortRange{static_cast<std::uint16_t>(*first), static_cast<std::uint16_t>(*first)};
    const auto last = parse_number(text.substr(dash + 1), range);
    if (!last) return no(last.error());
    if (*last < *first) return no(fmt::format("{} is a range that ends before it begins", quote(text)));
    return PortRange{static_cast<std::uint16_t>(*first), static_cast<std::uint16_t>(*last)};
}

Parsed<std::uint8_t> parse_protocol(std::string_view text, Range range) {
    for (const ProtocolName& known : names)
        if (known.name == text) return known.number;
    if (!text.empty() && is_digit(text.front())) {
        const auto value = parse_number(text, range);
        if (!value) return no(value.error());
        return static_cast<std::uint8_t>(*value);
    }
    return no();
}

Parsed<Subnet> parse_subnet(std::string_view text, Range /*range*/) {
    const std::size_t slash = text.find('/');
    const std::string_view address = text.substr(0, slash);
    Subnet subnet{.ipv6 = address.find(':') != std::string_view::npos, .length = 0, .address = 0};
    const unsigned bits = subnet.ipv6 ? 128 : 32;
    const auto value = subnet.ipv6 ? parse_ipv6(address) : parse_ipv4(address);
    if (!value) return no();
    std::uint64_t length = bits;
    if (slash != std::string_view::npos) {
        const auto given = parse_number(text.substr(slash + 1), {0, bits});
        if (!given) return no(fmt::format("{} has no prefix length of 0 to {} behind the '/'", quote(text), bits));
        length = *given;
    }
    // A shift by the whole width is undefined.
    const u128 host = length == bits ? 0 : ~u128{0} >> (128 - bits + length);
    subnet.length = static_cast<std::uint8_t>(length);
    subnet.address = *value & ~host;
    if (subnet.address != *value)
        return no(fmt::format("{} has bits behind its prefix: the network is {}", quote(text), to_string(subnet)));
    return subnet;
}

Parsed<InterfacePattern> parse_interface(std::string_view text, Range /*range*/) {
    const bool wildcard = text.ends_with('*');
    const std::string_view name = wildcard ? text.substr(0, text.size() - 1) : text;
    const auto bad = [](char c) { return c == '/' || c == ':' || c == ' ' || (c >= '\t' && c <= '\r'); };
    if (text.empty()) return no();
    if (name.find('*') != std::string_view::npos)
        return no(fmt::format("{} has a '*' that is not at its end", quote(text)));
    if (name == "." || name == ".." || std::any_of(name.begin(), name.end(), bad))
        return no(
            fmt::format("{} cannot be an interface: no '/', ':' or white space, and not '.' or '..'", quote(text)));
    if (name.size() > (wildcard ? 14 : 15))
        return no(fmt::format("{} is too long for an interface: at most 15 bytes, 14 in front of a '*'", quote(text)));
    return InterfacePattern{std::string(name), wildcard};
}

Parsed<MarkMatch> parse_mark(std::string_view text, Range range) {
    const std::size_t slash = text.find('/');
    const auto value = parse_number(text.substr(0, slash), range);
    if (!value) return no(value.error());
    if (slash == std::string_view::npos) return MarkMatch{.value = static_cast<std::uint32_t>(*value)};
    const auto mask = parse_number(text.substr(slash + 1), range);
    if (!mask) return no(mask.error());
    if (*mask == 0) return no(fmt::format("{} has an empty mask, which every packet meets", quote(text)));
    if ((*value & ~*mask) != 0)
        return no(fmt::format("{} has a value with bits outside its mask: no packet can meet it", quote(text)));
    return MarkMatch{static_cast<std::uint32_t>(*value), static_cast<std::uint32_t>(*mask)};
}

Parsed<std::string> parse_zone_name(std::string_view text, Range /*range*/) {
    const auto alphanumeric = [](char c) { return is_digit(c) || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z'); };
    const auto allowed = [&](char c) { return alphanumeric(c) || c == '_' || c == '.' || c == '-'; };
    if (text.empty() || text.size() > 63 || !alphanumeric(text.front()) ||
        !std::all_of(text.begin(), text.end(), allowed))
        return no();
    return std::string(text);
}

bool is_not_text(std::string_view plain) {
    constexpr std::string_view words[] = {"",     "~",    "null",  "Null",  "NULL", "true",
                                          "True", "TRUE", "false", "False", "FALSE"};
    if (std::find(std::begin(words), std::end(words), plain) != std::end(words)) return true;
    if (number(plain)) return true;
    // [-+]? ( digits ( . digits* )? | . digits+ ) ( [eE] [-+]? digits+ )? and the few words for "no number"; 0o17.
    std::string_view rest = plain;
    const auto digits = [&] {
        const auto length =
            static_cast<std::size_t>(std::find_if_not(rest.begin(), rest.end(), is_digit) - rest.begin());
        rest.remove_prefix(length);
        return length;
    };
    if (rest.starts_with("0o")) return all_digits(rest.substr(2));
    if (rest.starts_with('-') || rest.starts_with('+')) rest.remove_prefix(1);
    for (const std::string_view word : {".inf", ".Inf", ".INF", ".nan", ".NaN", ".NAN"})
        if (rest == word) return true;
    std::size_t mantissa = digits();
    if (rest.starts_with('.')) {
        rest.remove_prefix(1);
        mantissa += digits();
    }
    if (mantissa == 0) return false;
    if (rest.starts_with('e') || rest.starts_with('E')) {
        rest.remove_prefix(1);
        if (rest.starts_with('-') || rest.starts_with('+')) rest.remove_prefix(1);
        if (digits() == 0) return false;
    }
    return rest.empty();
}

std::string to_string(const Subnet& subnet) {
    if (subnet.ipv6) return fmt::format("{}/{}", ipv6_text(subnet.address), subnet.length);
    const auto a = static_cast<std::uint32_t>(subnet.address);
    return fmt::format("{}.{}.{}.{}/{}", a >> 24U, a >> 16U & 0xffU, a >> 8U & 0xffU, a & 0xffU, subnet.length);
}

bool has_ports(std::uint8_t protocol) {
    return std::find(std::begin(protocols_with_ports), std::end(protocols_with_ports), protocol) !=
           std::end(protocols_with_ports);
}

std::string protocol_name(std::uint8_t protocol) {
    const auto known =
        std::find_if(std::begin(names), std::end(names), [&](const ProtocolName& n) { return n.number == protocol; });
    return known == std::end(names) ? fmt::format("{}", protocol) : std::string(known->name);
}

std::span<const ProtocolName> protocol_names() { return names; }

} // namespace ctcached
