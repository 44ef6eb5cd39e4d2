// Dumped messages as values.
//
// A table of handlers by message type, a table of decoders by expression name. A decoder accepts exactly the attributes
// that the kernel dumps for what this daemon writes (net/netfilter/nft_*.c, the *_dump functions of 6.1 and 6.18) and
// answers nothing for the rest, which makes the expression a Foreign one.
#include "kernel/nft_codec.hpp"

#include <fmt/format.h>
#include <libnftnl/udata.h>
#include <linux/netfilter.h>
#include <linux/netfilter/nf_conntrack_tuple_common.h>
#include <linux/netfilter/nf_tables.h>
#include <linux/netlink.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>

namespace ctcached {

namespace {

// --- expressions ---

using Decoded = std::optional<Expression>;

// Linux dumps the words 0, 4, 8, 12 as NFT_REG_1..4, the others as NFT_REG32_00 + n (nft_dump_register).
std::optional<std::uint8_t> word(std::optional<std::uint32_t> reg) {
    if (!reg) return std::nullopt;
    if (*reg >= NFT_REG_1 && *reg <= NFT_REG_4) return static_cast<std::uint8_t>((*reg - NFT_REG_1) * 4);
    if (*reg >= NFT_REG32_00 && *reg <= NFT_REG32_15) return static_cast<std::uint8_t>(*reg - NFT_REG32_00);
    return std::nullopt;
}

std::optional<Bytes> value(const Attributes& attributes, std::uint16_t type) {
    auto data = attributes.nested(type);
    auto bytes = data.payload(NFTA_DATA_VALUE);
    if (!bytes || !data.only({NFTA_DATA_VALUE})) return std::nullopt;
    return Bytes(*bytes);
}

Decoded decode_meta(const Attributes& a) {
    static constexpr std::array<std::pair<std::uint32_t, MetaKey>, 6> keys{{{NFT_META_PROTOCOL, MetaKey::protocol},
                                                                            {NFT_META_MARK, MetaKey::mark},
                                                                            {NFT_META_IIFNAME, MetaKey::iifname},
                                                                            {NFT_META_OIFNAME, MetaKey::oifname},
                                                                            {NFT_META_NFPROTO, MetaKey::nfproto},
                                                                            {NFT_META_L4PROTO, MetaKey::l4proto}}};
    auto reg = word(a.u32(NFTA_META_DREG));
    const auto* key = std::ranges::find(keys, a.u32(NFTA_META_KEY), &std::pair<std::uint32_t, MetaKey>::first);
    if (!reg || key == keys.end() || !a.only({NFTA_META_DREG, NFTA_META_KEY})) return {};
    return MetaLoad{key->second, *reg};
}

Decoded decode_payload(const Attributes& a) {
    auto reg = word(a.u32(NFTA_PAYLOAD_DREG));
    auto base = a.u32(NFTA_PAYLOAD_BASE);
    auto offset = a.u32(NFTA_PAYLOAD_OFFSET);
    auto length = a.u32(NFTA_PAYLOAD_LEN);
    if (!reg || !base || *base > NFT_PAYLOAD_TRANSPORT_HEADER || !offset || !length) return {};
    if (!a.only({NFTA_PAYLOAD_DREG, NFTA_PAYLOAD_BASE, NFTA_PAYLOAD_OFFSET, NFTA_PAYLOAD_LEN})) return {};
    return PayloadLoad{static_cast<PayloadBase>(*base), *offset, *length, *reg};
}

Decoded decode_compare(const Attributes& a) {
    auto reg = word(a.u32(NFTA_CMP_SREG));
    auto operation = a.u32(NFTA_CMP_OP);
    auto data = value(a, NFTA_CMP_DATA);
    if (!reg || !data || !a.only({NFTA_CMP_SREG, NFTA_CMP_OP, NFTA_CMP_DATA})) return {};
    if (operation != NFT_CMP_EQ && operation != NFT_CMP_NEQ) return {};
    return Compare{*reg, operation == NFT_CMP_EQ, std::move(*data)};
}

Decoded decode_bitwise(const Attributes& a) {
    auto from = word(a.u32(NFTA_BITWISE_SREG));
    auto to = word(a.u32(NFTA_BITWISE_DREG));
    auto mask = value(a, NFTA_BITWISE_MASK);
    auto exclusive_or = value(a, NFTA_BITWISE_XOR);
    if (!from || from != to || !mask || exclusive_or != Bytes(mask->size(), '\0')) return {};
    if (a.u32(NFTA_BITWISE_LEN) != mask->size() || a.u32(NFTA_BITWISE_OP) != NFT_BITWISE_BOOL) return {};
    if (!a.only({NFTA_BITWISE_SREG, NFTA_BITWISE_DREG, NFTA_BITWISE_LEN, NFTA_BITWISE_OP, NFTA_BITWISE_MASK,
                 NFTA_BITWISE_XOR}))
        return {};
    return BitwiseAnd{*from, std::move(*mask)};
}

Decoded decode_byteorder(const Attributes& a) {
    auto from = word(a.u32(NFTA_BYTEORDER_SREG));
    if (!from || from != word(a.u32(NFTA_BYTEORDER_DREG)) || a.u32(NFTA_BYTEORDER_OP) != NFT_BYTEORDER_HTON) return {};
    if (a.u32(NFTA_BYTEORDER_LEN) != sizeof(std::uint32_t)) return {};
    if (a.u32(NFTA_BYTEORDER_SIZE) != sizeof(std::uint32_t)) return {};
    if (!a.only({NFTA_BYTEORDER_SREG, NFTA_BYTEORDER_DREG, NFTA_BYTEORDER_OP, NFTA_BYTEORDER_LEN, NFTA_BYTEORDER_SIZE}))
        return {};
    return ToNetworkOrder{*from};
}

Decoded decode_lookup(const Attributes& a) {
    auto set = a.text(NFTA_LOOKUP_SET);
    auto reg = word(a.u32(NFTA_LOOKUP_SREG));
    std::optional<std::uint8_t> target;
    if (a.has(NFTA_LOOKUP_DREG)) {
        target = word(a.u32(NFTA_LOOKUP_DREG));
        if (!target) return {};
    }
    if (!set || !reg || (a.has(NFTA_LOOKUP_FLAGS) && a.u32(NFTA_LOOKUP_FLAGS) != 0)) return {}; // NFT_LOOKUP_F_INV
    if (!a.only({NFTA_LOOKUP_SET, NFTA_LOOKUP_SREG, NFTA_LOOKUP_DREG, NFTA_LOOKUP_FLAGS})) return {};
    return Lookup{std::move(*set), *reg, target};
}

Decoded decode_ct(const Attributes& a) {
    if (a.u32(NFTA_CT_KEY) != NFT_CT_ZONE) return {};
    if (auto reg = word(a.u32(NFTA_CT_DREG)); reg && a.only({NFTA_CT_KEY, NFTA_CT_DREG})) return ZoneLoad{*reg};
    auto reg = word(a.u32(NFTA_CT_SREG));
    if (!reg || !a.only({NFTA_CT_KEY, NFTA_CT_SREG, NFTA_CT_DIRECTION})) return {};
    if (!a.has(NFTA_CT_DIRECTION)) return ZoneSet{*reg, false};
    if (a.u8(NFTA_CT_DIRECTION) != IP_CT_DIR_ORIGINAL) return {};
    return ZoneSet{*reg, true};
}

Decoded decode_immediate(const Attributes& a) {
    auto data = a.nested(NFTA_IMMEDIATE_DATA);
    auto verdict = data.nested(NFTA_DATA_VERDICT);
    auto code = verdict.u32(NFTA_VERDICT_CODE);
    if (a.u32(NFTA_IMMEDIATE_DREG) != NFT_REG_VERDICT || !code) return {};
    if (!a.only({NFTA_IMMEDIATE_DREG, NFTA_IMMEDIATE_DATA}) || !data.only({NFTA_DATA_VERDICT})) return {};
    auto chain = verdict.text(NFTA_VERDICT_CHAIN);
    if (!verdict.only({NFTA_VERDICT_CODE, NFTA_VERDICT_CHAIN})) return {};
    const auto verdict_code = static_cast<std::int32_t>(*code);
    if (verdict_code == NFT_JUMP && chain) return Verdict{VerdictKind::jump, std::move(*chain)};
    if (verdict_code == NF_ACCEPT && !chain) return Verdict{VerdictKind::accept, {}};
    if (verdict_code == NFT_RETURN && !chain) return Verdict{VerdictKind::returns, {}};
    return {};
}

struct Decoder {
    std::string_view name;
    Decoded (*decode)(const Attributes&);
};
constexpr std::array decoders = std::to_array<Decoder>({{"meta", decode_meta},
                                                        {"payload", decode_payload},
                                                        {"cmp", decode_compare},
                                                        {"bitwise", decode_bitwise},
                                                        {"byteorder", decode_byteorder},
                                                        {"lookup", decode_lookup},
                                                        {"ct", decode_ct},
                                                        {"immediate", decode_immediate}});

Expression decode_expression(const Attributes& a) {
    auto name = a.text(NFTA_EXPR_NAME).value_or("");
    const auto* decoder = std::ranges::find(decoders, name, &Decoder::name);
    if (decoder == decoders.end()) return Foreign{name.empty() ? "an expression without a name" : name};
    if (a.only({NFTA_EXPR_NAME, NFTA_EXPR_DATA}))
        if (auto expression = decoder->decode(a.nested(NFTA_EXPR_DATA))) return std::move(*expression);
    return Foreign{name + " of another form"};
}

// --- elements ---

// The comment in an element's user data; nothing else is ours to read.
std::string comment_of(std::string_view userdata) {
    while (userdata.size() >= 2) {
        auto type = static_cast<std::uint8_t>(userdata[0]);
        auto length = static_cast<std::uint8_t>(userdata[1]);
        auto content = userdata.substr(2, length);
        if (content.size() < length) break;
        if (type == NFTNL_UDATA_SET_ELEM_COMMENT) return std::string(content.substr(0, content.find('\0')));
        userdata.remove_prefix(2 + content.size());
    }
    return {};
}

std::optional<Element> decode_element(const Attributes& a) {
    Element element;
    const auto flags = a.u32(NFTA_SET_ELEM_FLAGS).value_or(0);
    // A catch-all element has no key, and no element of ours lacks one.
    if (auto key = value(a, NFTA_SET_ELEM_KEY))
        element.key = std::move(*key);
    else if ((flags & NFT_SET_ELEM_CATCHALL) == 0)
        return std::nullopt;
    if (auto end = value(a, NFTA_SET_ELEM_KEY_END)) element.key_end = std::move(*end);
    element.interval_end = (flags & NFT_SET_ELEM_INTERVAL_END) != 0;
    if (auto data = value(a, NFTA_SET_ELEM_DATA); data && data->size() == sizeof element.zone)
        std::memcpy(&element.zone, data->data(), sizeof element.zone);
    element.comment = comment_of(a.payload(NFTA_SET_ELEM_USERDATA).value_or(""));
    if (auto expression = a.nested(NFTA_SET_ELEM_EXPR); expression.text(NFTA_EXPR_NAME) == "counter") {
        auto counter = expression.nested(NFTA_EXPR_DATA);
        element.packets = counter.u64(NFTA_COUNTER_PACKETS).value_or(0);
        element.bytes = counter.u64(NFTA_COUNTER_BYTES).value_or(0);
    }
    // Elements of one set differ from ours by key, value and comment alone, unless one of these is there.
    if (!a.only({NFTA_SET_ELEM_KEY, NFTA_SET_ELEM_KEY_END, NFTA_SET_ELEM_DATA, NFTA_SET_ELEM_FLAGS,
                 NFTA_SET_ELEM_USERDATA, NFTA_SET_ELEM_EXPR, NFTA_SET_ELEM_PAD}))
        element.comment += " (with attributes of others)";
    return element;
}

// --- messages ---

std::unexpected<Failure> malformed(std::string_view what) {
    return std::unexpected(Failure{EBADMSG, fmt::format("malformed nftables message about {}", what)});
}

Result<void> take_table(const Attributes& a, ObservedTable& table) {
    const auto flags = a.u32(NFTA_TABLE_FLAGS).value_or(0);
    constexpr std::uint32_t persist = 0x4; // NFT_TABLE_F_PERSIST, Linux 6.9; Debian 12's header lacks it
    table.flags = {.owner = (flags & NFT_TABLE_F_OWNER) != 0,
                   .persist = (flags & persist) != 0,
                   .dormant = (flags & NFT_TABLE_F_DORMANT) != 0};
    table.owner = a.u32(NFTA_TABLE_OWNER).value_or(0);
    return {};
}

Result<void> take_chain(const Attributes& a, ObservedTable& table) {
    auto name = a.text(NFTA_CHAIN_NAME);
    if (!name) return malformed("a chain");
    Chain chain{.name = std::move(*name), .hook = {}, .rules = {}};
    if (a.has(NFTA_CHAIN_HOOK)) {
        auto hook = a.nested(NFTA_CHAIN_HOOK);
        auto number = hook.u32(NFTA_HOOK_HOOKNUM);
        auto priority = hook.u32(NFTA_HOOK_PRIORITY);
        if (!number || !priority) return malformed("chain " + chain.name);
        chain.hook = Hook{a.text(NFTA_CHAIN_TYPE).value_or(""), *number, static_cast<std::int32_t>(*priority)};
        // What else somebody may have set makes it another chain: the type says so.
        if (a.u32(NFTA_CHAIN_POLICY) != NF_ACCEPT) chain.hook->type += ", policy drop";
        if ((a.u32(NFTA_CHAIN_FLAGS).value_or(0) & ~std::uint32_t{NFT_CHAIN_BASE}) != 0) chain.hook->type += ", flags";
    }
    table.ruleset.chains.push_back(std::move(chain));
    return {};
}

Result<void> take_rule(const Attributes& a, ObservedTable& table) {
    auto name = a.text(NFTA_RULE_CHAIN);
    auto chain = std::ranges::find(table.ruleset.chains, name, &Chain::name);
    if (!name || chain == table.ruleset.chains.end()) return malformed("a rule");
    auto& rule = chain->rules.emplace_back();
    for (const auto& expression : a.list(NFTA_RULE_EXPRESSIONS)) rule.push_back(decode_expression(expression));
    return {};
}

// What a set has that ours never have.
std::string foreign_part(const Attributes& a, std::uint32_t flags, const Set& set) {
    constexpr std::uint32_t known = NFT_SET_MAP | NFT_SET_INTERVAL | NFT_SET_CONCAT;
    if ((flags & ~known) != 0) return fmt::format("flags {:#x}", flags & ~known);
    if (((flags & NFT_SET_CONCAT) != 0) == set.fields.empty()) return "a concatenation of another form";
    if (set.map && a.u32(NFTA_SET_DATA_LEN) != sizeof(std::uint16_t)) return "values that are no zones";
    if (a.nested(NFTA_SET_EXPR).text(NFTA_EXPR_NAME) != "counter") return "no counter, or more";
    if (a.nested(NFTA_SET_DESC).has(NFTA_SET_DESC_SIZE)) return "a limit of its size";
    if (a.has(NFTA_SET_TIMEOUT) || a.has(NFTA_SET_GC_INTERVAL) || a.has(NFTA_SET_POLICY)) return "a timeout or policy";
    return {};
}

Result<void> take_set(const Attributes& a, ObservedTable& table) {
    auto name = a.text(NFTA_SET_NAME);
    auto type = a.u32(NFTA_SET_KEY_TYPE);
    auto length = a.u32(NFTA_SET_KEY_LEN);
    if (!name || !type || !length) return malformed("a set");
    const auto flags = a.u32(NFTA_SET_FLAGS).value_or(0);
    Set set;
    set.name = std::move(*name);
    set.key_type = *type;
    set.key_bytes = *length;
    set.map = (flags & NFT_SET_MAP) != 0;
    set.interval = (flags & NFT_SET_INTERVAL) != 0;
    for (const auto& field : a.nested(NFTA_SET_DESC).list(NFTA_SET_DESC_CONCAT))
        set.fields.push_back(static_cast<std::uint8_t>(field.u32(NFTA_SET_FIELD_LEN).value_or(0)));
    set.foreign = foreign_part(a, flags, set);
    table.ruleset.sets.push_back(std::move(set));
    return {};
}

Result<void> take_elements(const Attributes& a, ObservedTable& table) {
    auto name = a.text(NFTA_SET_ELEM_LIST_SET);
    auto set = std::ranges::find(table.ruleset.sets, name, &Set::name);
    if (!name || set == table.ruleset.sets.end()) return malformed("elements");
    for (const auto& attributes : a.list(NFTA_SET_ELEM_LIST_ELEMENTS)) {
        auto element = decode_element(attributes);
        if (!element) return malformed("an element of " + name_of_set(*name));
        set->elements.push_back(std::move(*element));
    }
    return {};
}

struct Handler {
    int message;
    Result<void> (*take)(const Attributes&, ObservedTable&);
};
constexpr std::array handlers = std::to_array<Handler>({{NFT_MSG_NEWTABLE, take_table},
                                                        {NFT_MSG_NEWCHAIN, take_chain},
                                                        {NFT_MSG_NEWRULE, take_rule},
                                                        {NFT_MSG_NEWSET, take_set},
                                                        {NFT_MSG_NEWSETELEM, take_elements}});

} // namespace

Result<void> decode_into(std::optional<ObservedTable>& table, std::span<const char> messages) {
    auto split = split_messages(messages);
    if (!split) return malformed("anything");
    for (const auto& message : *split) {
        const auto* handler = std::ranges::find_if(handlers, [&](const auto& row) { return message.is(row.message); });
        if (handler == handlers.end()) continue;
        // The name of the table is the first attribute of them all (NFTA_TABLE_NAME, NFTA_CHAIN_TABLE, ...).
        if (message.family != NFPROTO_INET || message.attributes.text(NFTA_TABLE_NAME) != table_name) continue;
        if (!table) table.emplace();
        if (auto taken = handler->take(message.attributes, *table); !taken) return taken;
    }
    return {};
}

Result<void> sort(ObservedTable& table) {
    std::ranges::sort(table.ruleset.sets, {}, &Set::name);
    std::ranges::sort(table.ruleset.chains, {}, &Chain::name);
    for (auto& set : table.ruleset.sets) {
        std::ranges::sort(set.elements);
        if (std::ranges::adjacent_find(set.elements) != set.elements.end())
            return failure(EINTR, fmt::format("nftables: read elements of {}: one of them came twice", set.name));
    }
    return {};
}

std::optional<std::uint32_t> decode_generation(std::span<const char> messages) {
    for (const auto& message : split_messages(messages).value_or(std::vector<NftMessage>{}))
        if (message.is(NFT_MSG_NEWGEN)) return message.attributes.u32(NFTA_GEN_ID);
    return std::nullopt;
}

} // namespace ctcached
