#include "plan/text.hpp"

#include "policy/model.hpp"

#include <arpa/inet.h>
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <bit>
#include <map>
#include <optional>
#include <utility>

namespace ctcached {

namespace {

// --- values ---

u128 number(std::string_view bytes) {
    u128 value = 0;
    for (const char byte : bytes) value = value << 8U | static_cast<unsigned char>(byte);
    return value;
}

template <typename Integer>
Integer host_order(std::string_view bytes) {
    std::array<char, sizeof(Integer)> raw{};
    std::ranges::copy_n(bytes.begin(), static_cast<std::ptrdiff_t>(std::min(raw.size(), bytes.size())), raw.begin());
    return std::bit_cast<Integer>(raw);
}

std::string hex(std::string_view bytes) {
    std::string text = "0x";
    for (const char byte : bytes) fmt::format_to(std::back_inserter(text), "{:02x}", static_cast<unsigned char>(byte));
    const auto digits = text.find_first_not_of('0', 2); // as nft(8) writes it
    return digits == std::string::npos ? "0x0" : "0x" + text.substr(digits);
}

std::string address(std::string_view bytes) {
    std::array<char, INET6_ADDRSTRLEN> text{};
    // NOLINTNEXTLINE(bugprone-suspicious-stringview-data-usage): the family says how long it is
    inet_ntop(bytes.size() == 4 ? AF_INET : AF_INET6, bytes.data(), text.data(), text.size());
    return text.data();
}

std::string protocol(std::string_view bytes) {
    static constexpr std::array<std::pair<int, const char*>, 9> names{{{1, "icmp"},
                                                                       {6, "tcp"},
                                                                       {17, "udp"},
                                                                       {33, "dccp"},
                                                                       {50, "esp"},
                                                                       {51, "ah"},
                                                                       {58, "ipv6-icmp"},
                                                                       {132, "sctp"},
                                                                       {136, "udplite"}}};
    const int value = static_cast<unsigned char>(bytes[0]);
    const auto at = std::ranges::find(names, value, &std::pair<int, const char*>::first);
    return at == names.end() ? std::to_string(value) : at->second;
}

std::string interface(std::string_view bytes) { return fmt::format("\"{}\"", bytes.substr(0, bytes.find('\0'))); }

// --- keys: the fields of a key type, and how a range of each is written ---

// nft's enum datatypes, as in plan/build.cpp.
enum Datatype : std::uint32_t {
    integer = 4,
    ipv4_addr = 7,
    ipv6_addr = 8,
    inet_proto = 12,
    inet_service = 13,
    mark = 19,
    ifname = 41
};

std::uint32_t bytes_of(std::uint32_t datatype) {
    switch (datatype) {
    case inet_proto: return 1;
    case inet_service:
    case integer: return 2;
    case ipv6_addr:
    case ifname: return 16;
    default: return 4;
    }
}

std::vector<std::uint32_t> datatypes(std::uint32_t key_type) {
    std::vector<std::uint32_t> types;
    for (; key_type != 0; key_type >>= 6U) types.insert(types.begin(), key_type & 0x3fU);
    return types;
}

std::string value_text(std::uint32_t datatype, std::string_view bytes, bool interval) {
    switch (datatype) {
    case ipv4_addr:
    case ipv6_addr: return address(bytes);
    case inet_proto: return protocol(bytes);
    case inet_service: return std::to_string(static_cast<unsigned>(number(bytes)));
    case ifname: return interface(bytes);
    case mark:
        return fmt::format("{:#010x}",
                           interval ? static_cast<std::uint32_t>(number(bytes)) : host_order<std::uint32_t>(bytes));
    case integer: return std::to_string(host_order<std::uint16_t>(bytes));
    default: return hex(bytes);
    }
}

// Length of the prefix that the range is, if it is one.
std::optional<unsigned> prefix_of(std::string_view first, std::string_view last) {
    const auto bits = static_cast<unsigned>(first.size() * 8);
    const u128 size = number(last) - number(first);
    if ((size & (size + 1)) != 0 || (number(first) & size) != 0) return {};
    unsigned host_bits = 0;
    for (u128 rest = size; rest != 0; rest >>= 1U) ++host_bits;
    return bits - host_bits;
}

std::string range_text(std::uint32_t datatype, std::string_view first, std::string_view last) {
    std::string begin = value_text(datatype, first, true);
    if (first == last) return begin;
    if (datatype == ifname) return fmt::format("\"{}*\"", first.substr(0, first.find('\0')));
    const auto prefix = prefix_of(first, last);
    if (prefix && (datatype == ipv4_addr || datatype == ipv6_addr)) return fmt::format("{}/{}", begin, *prefix);
    return fmt::format("{}-{}", begin, value_text(datatype, last, true));
}

std::string key_text(const Set& set, std::string_view first, std::string_view last) {
    std::string text;
    std::size_t at = 0;
    const auto types = datatypes(set.key_type);
    for (const std::uint32_t type : types) {
        const std::size_t bytes = bytes_of(type);
        if (at + bytes > first.size() || at + bytes > last.size()) return hex(first);
        if (!text.empty()) text += " . ";
        text += set.interval ? range_text(type, first.substr(at, bytes), last.substr(at, bytes))
                             : value_text(type, first.substr(at, bytes), false);
        at += (bytes + 3) / 4 * 4;
    }
    return text;
}

// The elements as a reader thinks of them: a range that is stored as its beginning and its end is one line.
std::vector<std::string> element_texts(const Set& set, const std::vector<Element>& elements) {
    std::vector<std::string> texts;
    for (std::size_t i = 0; i < elements.size(); ++i) {
        const Element& element = elements[i];
        Bytes last = element.key_end.empty() ? element.key : element.key_end;
        if (set.interval && element.key_end.empty()) {
            if (element.interval_end) continue;
            const bool closed = i + 1 < elements.size() && elements[i + 1].interval_end;
            last = closed ? elements[i + 1].key : Bytes(element.key.size(), '\0');
            for (auto byte = last.rbegin(); byte != last.rend() && (*byte)-- == 0;) ++byte;
        }
        std::string text = key_text(set, element.key, last);
        if (!element.comment.empty()) text += fmt::format(" comment \"{}\"", element.comment);
        if (set.map) text += fmt::format(" : {}", element.zone);
        texts.push_back(std::move(text));
    }
    return texts;
}

std::string set_text(const Set& set) {
    std::string text = fmt::format("\t{} {} {{\n\t\ttypeof {}{}\n", set.map ? "map" : "set", set.name, set.type_of,
                                   set.map ? " : ct zone" : "");
    if (set.interval) text += "\t\tflags interval\n";
    text += "\t\tcounter\n";
    if (!set.elements.empty())
        text += fmt::format("\t\telements = {{ {} }}\n", fmt::join(element_texts(set, set.elements), ",\n\t\t\t     "));
    return text + "\t}\n";
}

// --- rules ---

class RuleText {
public:
    std::string of(const Rule& rule) {
        for (const Expression& expression : rule) std::visit(*this, expression);
        return fmt::format("{}", fmt::join(words_, " "));
    }

    void operator()(const MetaLoad& load) {
        static constexpr std::array<const char*, 6> names{"meta protocol", "meta mark",    "iifname",
                                                          "oifname",       "meta nfproto", "meta l4proto"};
        registers_[load.reg] = names[static_cast<std::size_t>(load.key)];
    }
    void operator()(const PayloadLoad& load) {
        struct Named {
            PayloadBase base;
            std::uint32_t offset, length;
            const char* name;
        };
        using enum PayloadBase;
        static constexpr std::array<Named, 5> named{{{network, 12, 4, "ip saddr"},
                                                     {network, 16, 4, "ip daddr"},
                                                     {network, 8, 16, "ip6 saddr"},
                                                     {network, 24, 16, "ip6 daddr"},
                                                     {transport, 2, 2, "th dport"}}};
        static constexpr std::array<const char*, 3> bases{"ll", "nh", "th"};
        for (const Named& field : named)
            if (field.base == load.base && field.offset == load.offset && field.length == load.length) {
                registers_[load.reg] = field.name;
                // The header field says which family it is of.
                if (load.base == network)
                    std::erase_if(words_, [](const auto& word) { return word.starts_with("meta nfproto"); });
                return;
            }
        registers_[load.reg] =
            fmt::format("@{},{},{}", bases[static_cast<std::size_t>(load.base)], load.offset * 8, load.length * 8);
    }
    void operator()(const Compare& compare) {
        const std::string& left = registers_[compare.reg];
        std::string right = hex(compare.data);
        if (left == "meta nfproto")
            right = compare.data[0] == 2 ? "ipv4" : compare.data[0] == 10 ? "ipv6" : right;
        else if (left == "meta l4proto")
            right = protocol(compare.data);
        words_.push_back(fmt::format("{} {}{}", left, compare.equal ? "" : "!= ", right));
        registers_.erase(compare.reg);
    }
    void operator()(const BitwiseAnd& bitwise) {
        std::string& left = registers_[bitwise.reg];
        const bool is_address = left.starts_with("ip");
        const bool is_mark = left == "meta mark";
        left += fmt::format(" & {}", is_address ? address(bitwise.mask)
                                     : is_mark  ? fmt::format("{:#010x}", host_order<std::uint32_t>(bitwise.mask))
                                                : hex(bitwise.mask));
    }
    void operator()(const ToNetworkOrder&) {}
    void operator()(const Lookup& lookup) {
        std::vector<std::string> parts;
        parts.reserve(registers_.size());
        for (const auto& [reg, text] : registers_) parts.push_back(text);
        registers_.clear();
        std::string text = fmt::format("{} {}@{}", fmt::join(parts, " . "), lookup.target ? "map " : "", lookup.set);
        if (lookup.target)
            registers_[*lookup.target] = std::move(text);
        else
            words_.push_back(std::move(text));
    }
    void operator()(const ZoneLoad& load) { registers_[load.reg] = "ct zone"; }
    void operator()(const ZoneSet& set) {
        words_.push_back(fmt::format("ct {}zone set {}", set.original ? "original " : "", registers_[set.reg]));
        registers_.clear();
    }
    void operator()(const Verdict& verdict) {
        switch (verdict.kind) {
        case VerdictKind::accept: words_.emplace_back("accept"); return;
        case VerdictKind::returns: words_.emplace_back("return"); return;
        case VerdictKind::jump: words_.push_back("jump " + verdict.chain); return;
        }
    }
    void operator()(const Foreign& foreign) { words_.push_back(foreign.text); }

private:
    std::map<std::uint8_t, std::string> registers_;
    std::vector<std::string> words_;
};

std::string rule_text(const Rule& rule) { return RuleText{}.of(rule); }

std::string hook_text(const Hook& hook) {
    static constexpr std::array<const char*, 5> hooks{"prerouting", "input", "forward", "output", "postrouting"};
    const bool named = hook.priority == 90 && hook.hook == 4; // nft(8) knows srcnat in postrouting only
    const std::string priority = hook.priority == -300 ? "raw" : named ? "srcnat - 10" : std::to_string(hook.priority);
    return fmt::format("type {} hook {} priority {}; policy accept;", hook.type,
                       hook.hook < hooks.size() ? hooks[hook.hook] : std::to_string(hook.hook), priority);
}

std::string chain_text(const Chain& chain) {
    std::string text = fmt::format("\tchain {} {{\n", chain.name);
    if (chain.hook) text += fmt::format("\t\t{}\n", hook_text(*chain.hook));
    for (const Rule& rule : chain.rules) text += fmt::format("\t\t{}\n", rule_text(rule));
    return text + "\t}\n";
}

// --- changes ---

struct ChangeText {
    const Ruleset& desired;
    const Ruleset* observed;
    std::string text;

    void line(char sign, std::string_view what) { fmt::format_to(std::back_inserter(text), "{} {}\n", sign, what); }
    void elements(char sign, const std::string& name, std::vector<Element> changed) {
        const Ruleset& side = sign == '-' && observed ? *observed : desired;
        const auto set = std::ranges::find(side.sets, name, &Set::name);
        if (set == side.sets.end()) return;
        // Half of a range may have changed: show the ranges that any changed element begins or ends.
        std::vector<Element> shown;
        for (std::size_t i = 0; i < set->elements.size(); ++i) {
            const Element& element = set->elements[i];
            if (element.interval_end) continue;
            const bool closed = i + 1 < set->elements.size() && set->elements[i + 1].interval_end;
            const bool touched = std::ranges::binary_search(changed, element) ||
                                 (closed && std::ranges::binary_search(changed, set->elements[i + 1]));
            if (!touched) continue;
            shown.push_back(element);
            if (closed) shown.push_back(set->elements[i + 1]);
        }
        for (const std::string& element : element_texts(*set, shown))
            line(sign, fmt::format("{} {}: {}", set->map ? "map" : "set", name, element));
    }

    void operator()(const AddTable&) { line('+', "table inet ctcached"); }
    void operator()(const DeleteTable&) { line('-', "table inet ctcached"); }
    void operator()(const AddSet& add) { line('+', fmt::format("{} {}", add.set.map ? "map" : "set", add.set.name)); }
    void operator()(const DeleteSet& gone) { line('-', fmt::format("map {}", gone.name)); }
    void operator()(const AddElements& add) { elements('+', add.set, add.elements); }
    void operator()(const DeleteElements& gone) { elements('-', gone.set, gone.elements); }
    void operator()(const AddChain& add) {
        line('+', fmt::format("chain {}{}", add.name, add.hook ? " { " + hook_text(*add.hook) + " }" : ""));
    }
    void operator()(const DeleteChain& gone) { line('-', fmt::format("chain {}", gone.name)); }
    void operator()(const FlushChain& flush) {
        if (!observed) return;
        const auto chain = std::ranges::find(observed->chains, flush.name, &Chain::name);
        if (chain == observed->chains.end()) return;
        for (const Rule& rule : chain->rules) line('-', fmt::format("chain {}: {}", flush.name, rule_text(rule)));
    }
    void operator()(const AddRule& add) { line('+', fmt::format("chain {}: {}", add.chain, rule_text(add.rule))); }
};

} // namespace

std::string to_text(const ZoneTable& zones) {
    std::string text;
    for (const ZoneIdentity& zone : zones)
        text += fmt::format("# zone {} id {} {}\n", zone.name, zone.id, to_string(zone.direction));
    return text;
}

std::string to_text(const Ruleset& ruleset) {
    std::string text = fmt::format("table inet {} {{\n", table_name);
    bool first = true;
    const auto append = [&](const std::string& part) {
        if (!std::exchange(first, false)) text += '\n';
        text += part;
    };
    for (const Set& set : ruleset.sets) append(set_text(set));
    for (const Chain& chain : ruleset.chains) append(chain_text(chain));
    return text + "}\n";
}

std::string to_text(const std::vector<Change>& changes, const Ruleset& desired,
                    const std::optional<ObservedTable>& observed) {
    ChangeText text{desired, observed ? &observed->ruleset : nullptr, {}};
    for (const Change& change : changes) std::visit(text, change);
    return text.text;
}

} // namespace ctcached
