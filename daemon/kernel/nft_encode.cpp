// Changes as netlink messages, built with libnftnl.
//
// One small function per change and per expression; each fills an nftnl object, which libnftnl writes at the end of a
// scratch buffer that no single message can outgrow. Elements are the exception: a list of them may be larger than an
// attribute can say, so they are written one by one and a new message begins before the list would overflow.
#include "base/handle.hpp"
#include "kernel/nft_codec.hpp"

#include <arpa/inet.h>
#include <fmt/format.h>
#include <libmnl/libmnl.h>
#include <libnftnl/chain.h>
#include <libnftnl/common.h>
#include <libnftnl/expr.h>
#include <libnftnl/rule.h>
#include <libnftnl/set.h>
#include <libnftnl/table.h>
#include <libnftnl/udata.h>
#include <linux/netfilter.h>
#include <linux/netfilter/nf_conntrack_tuple_common.h>
#include <linux/netfilter/nf_tables.h>
#include <linux/netfilter/nfnetlink.h>

#include <algorithm>
#include <array>
#include <stdexcept>
#include <utility>

namespace ctcached {

namespace {

// Linux 6.9, include/uapi/linux/netfilter/nf_tables.h, NFT_TABLE_F_PERSIST; Debian 12's header lacks it.
constexpr std::uint32_t table_persists = 0x4;
constexpr std::uint32_t integer_type = 4; // nft's TYPE_INTEGER, as it declares the values of a `: ct zone` map
constexpr std::size_t zone_bytes = sizeof(std::uint16_t);

using Table = Handle<nftnl_table, nftnl_table_free>;
using ChainObject = Handle<nftnl_chain, nftnl_chain_free>;
using RuleObject = Handle<nftnl_rule, nftnl_rule_free>;
using SetObject = Handle<nftnl_set, nftnl_set_free>;
using ElementObject = Handle<nftnl_set_elem, nftnl_set_elem_free>;
using ExpressionObject = Handle<nftnl_expr, nftnl_expr_free>;
using Userdata = Handle<nftnl_udata_buf, nftnl_udata_buf_free>;

// An allocation of libnftnl's.
template <typename Object, typename Raw>
Object own(Raw* raw) {
    if (!raw) throw_errno(ENOMEM, "nftables object");
    return Object(raw);
}

// --- expressions ---

std::uint32_t wire(std::uint8_t reg) { return NFT_REG32_00 + reg; }

ExpressionObject expression(const char* name) { return own<ExpressionObject>(nftnl_expr_alloc(name)); }

ExpressionObject encode(const MetaLoad& meta) {
    static constexpr std::array<std::uint32_t, 6> keys{NFT_META_PROTOCOL, NFT_META_MARK,    NFT_META_IIFNAME,
                                                       NFT_META_OIFNAME,  NFT_META_NFPROTO, NFT_META_L4PROTO};
    auto e = expression("meta");
    nftnl_expr_set_u32(e.get(), NFTNL_EXPR_META_KEY, keys.at(std::to_underlying(meta.key)));
    nftnl_expr_set_u32(e.get(), NFTNL_EXPR_META_DREG, wire(meta.reg));
    return e;
}

ExpressionObject encode(const PayloadLoad& payload) {
    auto e = expression("payload");
    nftnl_expr_set_u32(e.get(), NFTNL_EXPR_PAYLOAD_BASE, std::to_underlying(payload.base)); // NFT_PAYLOAD_*_HEADER
    nftnl_expr_set_u32(e.get(), NFTNL_EXPR_PAYLOAD_OFFSET, payload.offset);
    nftnl_expr_set_u32(e.get(), NFTNL_EXPR_PAYLOAD_LEN, payload.length);
    nftnl_expr_set_u32(e.get(), NFTNL_EXPR_PAYLOAD_DREG, wire(payload.reg));
    return e;
}

ExpressionObject encode(const Compare& compare) {
    auto e = expression("cmp");
    nftnl_expr_set_u32(e.get(), NFTNL_EXPR_CMP_SREG, wire(compare.reg));
    nftnl_expr_set_u32(e.get(), NFTNL_EXPR_CMP_OP, compare.equal ? NFT_CMP_EQ : NFT_CMP_NEQ);
    nftnl_expr_set_data(e.get(), NFTNL_EXPR_CMP_DATA, compare.data.data(),
                        static_cast<std::uint32_t>(compare.data.size()));
    return e;
}

ExpressionObject encode(const BitwiseAnd& bitwise) {
    auto length = static_cast<std::uint32_t>(bitwise.mask.size());
    auto e = expression("bitwise");
    nftnl_expr_set_u32(e.get(), NFTNL_EXPR_BITWISE_SREG, wire(bitwise.reg));
    nftnl_expr_set_u32(e.get(), NFTNL_EXPR_BITWISE_DREG, wire(bitwise.reg));
    nftnl_expr_set_u32(e.get(), NFTNL_EXPR_BITWISE_OP, NFT_BITWISE_BOOL);
    nftnl_expr_set_u32(e.get(), NFTNL_EXPR_BITWISE_LEN, length);
    nftnl_expr_set_data(e.get(), NFTNL_EXPR_BITWISE_MASK, bitwise.mask.data(), length);
    nftnl_expr_set_data(e.get(), NFTNL_EXPR_BITWISE_XOR, Bytes(length, '\0').data(), length);
    return e;
}

ExpressionObject encode(const ToNetworkOrder& order) {
    auto e = expression("byteorder");
    nftnl_expr_set_u32(e.get(), NFTNL_EXPR_BYTEORDER_SREG, wire(order.reg));
    nftnl_expr_set_u32(e.get(), NFTNL_EXPR_BYTEORDER_DREG, wire(order.reg));
    nftnl_expr_set_u32(e.get(), NFTNL_EXPR_BYTEORDER_OP, NFT_BYTEORDER_HTON);
    nftnl_expr_set_u32(e.get(), NFTNL_EXPR_BYTEORDER_LEN, sizeof(std::uint32_t));
    nftnl_expr_set_u32(e.get(), NFTNL_EXPR_BYTEORDER_SIZE, sizeof(std::uint32_t));
    return e;
}

ExpressionObject encode(const Lookup& lookup) {
    auto e = expression("lookup");
    nftnl_expr_set_str(e.get(), NFTNL_EXPR_LOOKUP_SET, lookup.set.c_str());
    nftnl_expr_set_u32(e.get(), NFTNL_EXPR_LOOKUP_SREG, wire(lookup.reg));
    if (lookup.target) nftnl_expr_set_u32(e.get(), NFTNL_EXPR_LOOKUP_DREG, wire(*lookup.target));
    return e;
}

ExpressionObject encode(const ZoneLoad& zone) {
    auto e = expression("ct");
    nftnl_expr_set_u32(e.get(), NFTNL_EXPR_CT_KEY, NFT_CT_ZONE);
    nftnl_expr_set_u32(e.get(), NFTNL_EXPR_CT_DREG, wire(zone.reg));
    return e;
}

ExpressionObject encode(const ZoneSet& zone) {
    auto e = expression("ct");
    nftnl_expr_set_u32(e.get(), NFTNL_EXPR_CT_KEY, NFT_CT_ZONE);
    nftnl_expr_set_u32(e.get(), NFTNL_EXPR_CT_SREG, wire(zone.reg));
    if (zone.original) nftnl_expr_set_u8(e.get(), NFTNL_EXPR_CT_DIR, IP_CT_DIR_ORIGINAL);
    return e;
}

ExpressionObject encode(const Verdict& verdict) {
    static constexpr std::array<int, 3> codes{NF_ACCEPT, NFT_JUMP, NFT_RETURN};
    auto e = expression("immediate");
    nftnl_expr_set_u32(e.get(), NFTNL_EXPR_IMM_DREG, NFT_REG_VERDICT);
    nftnl_expr_set_u32(e.get(), NFTNL_EXPR_IMM_VERDICT,
                       static_cast<std::uint32_t>(codes.at(std::to_underlying(verdict.kind))));
    if (verdict.kind == VerdictKind::jump) nftnl_expr_set_str(e.get(), NFTNL_EXPR_IMM_CHAIN, verdict.chain.c_str());
    return e;
}

ExpressionObject encode(const Foreign& foreign) {
    throw std::invalid_argument("an expression of others cannot be written: " + foreign.text);
}

// --- messages ---

class Writer {
public:
    explicit Writer(std::uint32_t sequence) : scratch_(2UZ * UINT16_MAX), sequence_(sequence) {}

    nlmsghdr* begin(std::uint16_t type, std::uint16_t flags) {
        std::ranges::fill(scratch_, '\0');
        return nftnl_nlmsg_build_hdr(scratch_.data(), type, NFPROTO_INET, flags, sequence_++);
    }
    void end(const nlmsghdr* message) {
        last_ = bytes_.size();
        bytes_.append(scratch_.data(), NLMSG_ALIGN(message->nlmsg_len));
    }
    void bound(std::uint16_t type, std::optional<std::uint32_t> generation) { // NFNL_MSG_BATCH_BEGIN, _END
        auto* message = mnl_nlmsg_put_header(scratch_.data());
        message->nlmsg_type = type;
        message->nlmsg_flags = NLM_F_REQUEST;
        message->nlmsg_seq = sequence_++;
        auto* header = static_cast<nfgenmsg*>(mnl_nlmsg_put_extra_header(message, sizeof(nfgenmsg)));
        header->version = NFNETLINK_V0;
        header->res_id = htons(NFNL_SUBSYS_NFTABLES);
        if (generation) mnl_attr_put_u32(message, NFNL_BATCH_GENID, htonl(*generation));
        bytes_.append(scratch_.data(), NLMSG_ALIGN(message->nlmsg_len));
    }
    void acknowledge_last() { reinterpret_cast<nlmsghdr*>(bytes_.data() + last_)->nlmsg_flags |= NLM_F_ACK; }
    std::string take() { return std::move(bytes_); }

    [[nodiscard]] std::uint32_t sequence() const { return sequence_; } // of the next message

private:
    std::vector<char> scratch_;
    std::string bytes_;
    std::size_t last_ = 0;
    std::uint32_t sequence_;
};

constexpr std::uint16_t add_flags = NLM_F_CREATE | NLM_F_EXCL;

Table table_object(const std::string& name) {
    auto table = own<Table>(nftnl_table_alloc());
    nftnl_table_set_str(table.get(), NFTNL_TABLE_NAME, name.c_str());
    return table;
}

void write_new_table(Writer& out, const std::string& name, AddTable flags) {
    auto table = table_object(name);
    nftnl_table_set_u32(table.get(), NFTNL_TABLE_FLAGS,
                        (flags.owner ? std::uint32_t{NFT_TABLE_F_OWNER} : 0U) | (flags.persist ? table_persists : 0U) |
                            (flags.dormant ? std::uint32_t{NFT_TABLE_F_DORMANT} : 0U));
    // Not exclusive: on a table that an owner left behind this takes it over (Linux >= 6.9, nf_tables_updtable).
    auto* message = out.begin(NFT_MSG_NEWTABLE, NLM_F_CREATE);
    nftnl_table_nlmsg_build_payload(message, table.get());
    out.end(message);
}

void write(Writer& out, const AddTable& change) { write_new_table(out, table_name, change); }

void write(Writer& out, const DeleteTable&) {
    auto table = table_object(table_name);
    auto* message = out.begin(NFT_MSG_DELTABLE, 0);
    nftnl_table_nlmsg_build_payload(message, table.get());
    out.end(message);
}

SetObject set_object(const std::string& name) {
    auto set = own<SetObject>(nftnl_set_alloc());
    nftnl_set_set_str(set.get(), NFTNL_SET_TABLE, table_name);
    nftnl_set_set_str(set.get(), NFTNL_SET_NAME, name.c_str());
    return set;
}

void write(Writer& out, const AddSet& change) {
    const auto& set = change.set;
    auto object = set_object(set.name);
    auto* raw = object.get();
    nftnl_set_set_u32(raw, NFTNL_SET_ID, out.sequence()); // must be unique within the batch
    nftnl_set_set_u32(raw, NFTNL_SET_FLAGS,
                      (set.map ? std::uint32_t{NFT_SET_MAP} : 0U) |
                          (set.interval ? std::uint32_t{NFT_SET_INTERVAL} : 0U) |
                          (set.fields.empty() ? 0U : std::uint32_t{NFT_SET_CONCAT}));
    nftnl_set_set_u32(raw, NFTNL_SET_KEY_TYPE, set.key_type);
    nftnl_set_set_u32(raw, NFTNL_SET_KEY_LEN, set.key_bytes);
    if (set.map) {
        nftnl_set_set_u32(raw, NFTNL_SET_DATA_TYPE, integer_type);
        nftnl_set_set_u32(raw, NFTNL_SET_DATA_LEN, zone_bytes);
    }
    if (!set.fields.empty())
        nftnl_set_set_data(raw, NFTNL_SET_DESC_CONCAT, set.fields.data(),
                           static_cast<std::uint32_t>(set.fields.size()));
    if (auto userdata = set_userdata(set); !userdata.empty())
        nftnl_set_set_data(raw, NFTNL_SET_USERDATA, userdata.data(), static_cast<std::uint32_t>(userdata.size()));
    nftnl_set_add_expr(raw, expression("counter").release()); // the set owns it
    auto* message = out.begin(NFT_MSG_NEWSET, add_flags);
    nftnl_set_nlmsg_build_payload(message, raw);
    out.end(message);
}

void write(Writer& out, const DeleteSet& change) {
    auto set = set_object(change.name);
    auto* message = out.begin(NFT_MSG_DELSET, 0);
    nftnl_set_nlmsg_build_payload(message, set.get());
    out.end(message);
}

void put_comment(nftnl_set_elem* element, const std::string& comment) {
    auto userdata = own<Userdata>(nftnl_udata_buf_alloc(NFT_USERDATA_MAXLEN));
    nftnl_udata_put_strz(userdata.get(), NFTNL_UDATA_SET_ELEM_COMMENT, comment.c_str());
    nftnl_set_elem_set(element, NFTNL_SET_ELEM_USERDATA, nftnl_udata_buf_data(userdata.get()),
                       nftnl_udata_buf_len(userdata.get()));
}

ElementObject encode(const Element& element, bool map, bool deletion) {
    auto object = own<ElementObject>(nftnl_set_elem_alloc());
    auto* raw = object.get();
    auto put = [raw](std::uint16_t attribute, const void* data, std::size_t length) {
        nftnl_set_elem_set(raw, attribute, data, static_cast<std::uint32_t>(length));
    };
    std::uint32_t flags = element.interval_end ? std::uint32_t{NFT_SET_ELEM_INTERVAL_END} : 0U;
    if (element.key.empty()) flags |= NFT_SET_ELEM_CATCHALL; // only others make these; ours to delete
    if (flags != 0) nftnl_set_elem_set_u32(raw, NFTNL_SET_ELEM_FLAGS, flags);
    if (!element.key.empty()) put(NFTNL_SET_ELEM_KEY, element.key.data(), element.key.size());
    if (!element.key_end.empty()) put(NFTNL_SET_ELEM_KEY_END, element.key_end.data(), element.key_end.size());
    if (deletion) return object; // found by its key alone (nft_del_setelem)
    if (map && !element.interval_end) put(NFTNL_SET_ELEM_DATA, &element.zone, sizeof element.zone);
    if (!element.comment.empty()) put_comment(raw, element.comment);
    return object;
}

void write_elements(Writer& out, const std::string& set, const std::vector<Element>& elements, bool deletion) {
    const bool map = set != zones_set;
    constexpr std::size_t most = UINT16_MAX - 2048; // of a list; no element is as large as the rest
    for (auto element = elements.begin(); element != elements.end();) {
        auto* message = deletion ? out.begin(NFT_MSG_DELSETELEM, 0) : out.begin(NFT_MSG_NEWSETELEM, add_flags);
        mnl_attr_put_strz(message, NFTA_SET_ELEM_LIST_TABLE, table_name);
        mnl_attr_put_strz(message, NFTA_SET_ELEM_LIST_SET, set.c_str());
        auto start = message->nlmsg_len;
        auto* list = mnl_attr_nest_start(message, NFTA_SET_ELEM_LIST_ELEMENTS);
        for (int i = 1; element != elements.end() && message->nlmsg_len - start < most; ++element, ++i)
            nftnl_set_elem_nlmsg_build(message, encode(*element, map, deletion).get(), i);
        mnl_attr_nest_end(message, list);
        out.end(message);
    }
}

void write(Writer& out, const AddElements& change) { write_elements(out, change.set, change.elements, false); }
void write(Writer& out, const DeleteElements& change) { write_elements(out, change.set, change.elements, true); }

ChainObject chain_object(const std::string& name) {
    auto chain = own<ChainObject>(nftnl_chain_alloc());
    nftnl_chain_set_str(chain.get(), NFTNL_CHAIN_TABLE, table_name);
    nftnl_chain_set_str(chain.get(), NFTNL_CHAIN_NAME, name.c_str());
    return chain;
}

void write(Writer& out, const AddChain& change) {
    auto chain = chain_object(change.name);
    if (change.hook) {
        nftnl_chain_set_str(chain.get(), NFTNL_CHAIN_TYPE, change.hook->type.c_str());
        nftnl_chain_set_u32(chain.get(), NFTNL_CHAIN_HOOKNUM, change.hook->hook);
        nftnl_chain_set_s32(chain.get(), NFTNL_CHAIN_PRIO, change.hook->priority);
        nftnl_chain_set_u32(chain.get(), NFTNL_CHAIN_POLICY, NF_ACCEPT);
    }
    auto* message = out.begin(NFT_MSG_NEWCHAIN, add_flags);
    nftnl_chain_nlmsg_build_payload(message, chain.get());
    out.end(message);
}

void write(Writer& out, const DeleteChain& change) {
    auto chain = chain_object(change.name);
    auto* message = out.begin(NFT_MSG_DELCHAIN, 0);
    nftnl_chain_nlmsg_build_payload(message, chain.get());
    out.end(message);
}

RuleObject rule_object(const std::string& chain) {
    auto rule = own<RuleObject>(nftnl_rule_alloc());
    nftnl_rule_set_str(rule.get(), NFTNL_RULE_TABLE, table_name);
    nftnl_rule_set_str(rule.get(), NFTNL_RULE_CHAIN, chain.c_str());
    return rule;
}

void write(Writer& out, const FlushChain& change) {
    auto rule = rule_object(change.name);
    auto* message = out.begin(NFT_MSG_DELRULE, 0); // without a handle: all rules of the chain
    nftnl_rule_nlmsg_build_payload(message, rule.get());
    out.end(message);
}

void write(Writer& out, const AddRule& change) {
    auto rule = rule_object(change.chain);
    for (const auto& expression : change.rule) {
        auto object = std::visit([](const auto& e) { return encode(e); }, expression);
        nftnl_rule_add_expr(rule.get(), object.release()); // the rule owns it
    }
    auto* message = out.begin(NFT_MSG_NEWRULE, NLM_F_CREATE | NLM_F_APPEND);
    nftnl_rule_nlmsg_build_payload(message, rule.get());
    out.end(message);
}

// --- names ---

std::string count(std::string_view verb, std::size_t elements) {
    return fmt::format("{} {} element{}", verb, elements, elements == 1 ? "" : "s");
}

struct Name {
    std::string operator()(const AddTable&) const { return "table: create"; }
    std::string operator()(const DeleteTable&) const { return "table: delete"; }
    std::string operator()(const AddSet& c) const { return name_of_set(c.set.name) + ": create"; }
    std::string operator()(const DeleteSet& c) const { return name_of_set(c.name) + ": delete"; }
    std::string operator()(const AddElements& c) const {
        return name_of_set(c.set) + ": " + count("add", c.elements.size());
    }
    std::string operator()(const DeleteElements& c) const {
        return name_of_set(c.set) + ": " + count("delete", c.elements.size());
    }
    std::string operator()(const AddChain& c) const { return "chain " + c.name + ": create"; }
    std::string operator()(const DeleteChain& c) const { return "chain " + c.name + ": delete"; }
    std::string operator()(const FlushChain& c) const { return "chain " + c.name + ": flush"; }
    std::string operator()(const AddRule& c) const { return "chain " + c.chain + ": add a rule"; }
};

} // namespace

std::optional<std::size_t> NftBatch::change(std::uint32_t sequence) const {
    auto message = sequence - first - 1; // wraps below the first one
    return message < changes.size() ? std::optional(changes[message]) : std::nullopt;
}

NftBatch encode_batch(const std::vector<Change>& changes, std::uint32_t generation, std::uint32_t first) {
    NftBatch batch{.bytes = {}, .first = first, .changes = {}};
    Writer out(first);
    out.bound(NFNL_MSG_BATCH_BEGIN, generation);
    for (std::size_t i = 0; i < changes.size(); ++i) {
        std::visit([&](const auto& change) { write(out, change); }, changes[i]);
        batch.changes.resize(out.sequence() - first - 1, i);
    }
    if (!batch.changes.empty()) out.acknowledge_last();
    out.bound(NFNL_MSG_BATCH_END, {});
    batch.bytes = out.take();
    return batch;
}

std::string name_of_set(const std::string& set) { return (set == zones_set ? "set " : "map ") + set; }

std::string name_of(const Change& change) { return std::visit(Name{}, change); }

std::string encode_query(NftQuery query, std::uint32_t sequence, const std::string& set) {
    struct Row {
        std::uint16_t message;
        std::uint16_t flags;
    };
    static constexpr std::array<Row, 6> rows{{{NFT_MSG_GETGEN, 0},
                                              {NFT_MSG_GETTABLE, 0},
                                              {NFT_MSG_GETCHAIN, NLM_F_DUMP},
                                              {NFT_MSG_GETRULE, NLM_F_DUMP},
                                              {NFT_MSG_GETSET, NLM_F_DUMP},
                                              {NFT_MSG_GETSETELEM, NLM_F_DUMP}}};
    static_assert(NFTA_TABLE_NAME == 1 && NFTA_CHAIN_TABLE == 1 && NFTA_RULE_TABLE == 1 && NFTA_SET_TABLE == 1 &&
                  NFTA_SET_ELEM_LIST_TABLE == 1);
    Writer out(sequence);
    auto row = rows.at(static_cast<std::size_t>(query));
    auto* message = out.begin(row.message, row.flags);
    // A dump of chains ignores the table (6.1, nf_tables_dump_chains): the decoder leaves out what is not ours.
    if (query != NftQuery::generation) mnl_attr_put_strz(message, NFTA_TABLE_NAME, table_name);
    if (query == NftQuery::elements) mnl_attr_put_strz(message, NFTA_SET_ELEM_LIST_SET, set.c_str());
    out.end(message);
    return out.take();
}

std::string encode_table_probe(const std::string& name, AddTable flags, std::uint32_t sequence) {
    Writer out(sequence);
    out.bound(NFNL_MSG_BATCH_BEGIN, {});
    write_new_table(out, name, flags);
    out.acknowledge_last();
    return out.take();
}

} // namespace ctcached
