// The user data of a set: how nft(8) knows what its keys mean.
//
// The kernel keeps it without looking. It is a run of (type, length, value), as libnftnl's udata.h has it: the byte
// order of key and value, and the expression that the key was declared with, so that a table of ours is listed with
// `typeof` and the listing can be loaded again. The numbers of expressions and header fields are those of nft 1.0.6
// (include/expression.h, include/proto.h), compared byte by byte with what nft sends for the same declaration.
#include "base/handle.hpp"
#include "kernel/nft_codec.hpp"

#include <libnftnl/udata.h>
#include <linux/netfilter/nf_tables.h>

#include <algorithm>
#include <array>
#include <string_view>

namespace ctcached {

namespace {

enum Order : std::uint32_t { none = 0, host = 1, network = 2 };                          // enum byteorder
enum Kind : std::uint32_t { payload = 7, meta = 9, conntrack = 12, concatenation = 13 }; // enum expr_types

struct Field {
    std::string_view text;
    Order order;
    Kind kind;
    std::uint32_t a; // payload: header; else: key
    std::uint32_t b; // payload: field of the header
};
constexpr std::array fields = std::to_array<Field>({
    {"meta l4proto", host, meta, NFT_META_L4PROTO, 0},
    {"meta nfproto", host, meta, NFT_META_NFPROTO, 0},
    {"meta protocol", network, meta, NFT_META_PROTOCOL, 0},
    {"meta mark", host, meta, NFT_META_MARK, 0},
    {"iifname", host, meta, NFT_META_IIFNAME, 0},
    {"oifname", host, meta, NFT_META_OIFNAME, 0},
    {"ct zone", host, conntrack, NFT_CT_ZONE, 0},
    {"th sport", network, payload, 11, 1},
    {"th dport", network, payload, 11, 2},
    {"ip saddr", network, payload, 12, 11},
    {"ip daddr", network, payload, 12, 12},
    {"ip6 saddr", network, payload, 13, 8},
    {"ip6 daddr", network, payload, 13, 9},
});
constexpr const Field& zone_field = fields[6];
static_assert(zone_field.text == "ct zone");

// The attributes of an expression, by position.
constexpr std::uint8_t kind_attribute = NFTNL_UDATA_SET_TYPEOF_EXPR;
constexpr std::uint8_t data_attribute = NFTNL_UDATA_SET_TYPEOF_DATA;
constexpr std::uint32_t any_direction = UINT32_MAX; // -1: ct zone of a flow, not of a direction

using Buffer = Handle<nftnl_udata_buf, nftnl_udata_buf_free>;

// "a . b" as fields; empty when one is not known.
std::vector<const Field*> parse(std::string_view type_of) {
    std::vector<const Field*> found;
    constexpr std::string_view dot = " . ";
    for (bool more = true; more;) {
        auto end = type_of.find(dot);
        more = end != std::string_view::npos;
        const auto* field = std::ranges::find(fields, type_of.substr(0, end), &Field::text);
        if (field == fields.end()) return {};
        found.push_back(field);
        if (more) type_of.remove_prefix(end + dot.size());
    }
    return found;
}

void put(nftnl_udata_buf* buffer, const Field& field) {
    nftnl_udata_put_u32(buffer, kind_attribute, field.kind);
    auto* nest = nftnl_udata_nest_start(buffer, data_attribute);
    nftnl_udata_put_u32(buffer, 0, field.a);
    if (field.kind == payload) nftnl_udata_put_u32(buffer, 1, field.b);
    if (field.kind == conntrack) nftnl_udata_put_u32(buffer, 1, any_direction);
    nftnl_udata_nest_end(buffer, nest);
}

void put(nftnl_udata_buf* buffer, const std::vector<const Field*>& key) {
    if (key.size() == 1) return put(buffer, *key.front());
    nftnl_udata_put_u32(buffer, kind_attribute, concatenation);
    auto* nest = nftnl_udata_nest_start(buffer, data_attribute);
    for (std::size_t i = 0; i < key.size(); ++i) {
        auto* member = nftnl_udata_nest_start(buffer, static_cast<std::uint8_t>(i));
        put(buffer, *key[i]);
        nftnl_udata_nest_end(buffer, member);
    }
    nftnl_udata_nest_end(buffer, nest);
}

} // namespace

Bytes set_userdata(const Set& set) {
    constexpr std::size_t most_fields = 8; // a member takes 24 bytes at most, and a nest's length has 8 bits
    auto key = parse(set.type_of);
    if (key.empty() || key.size() > most_fields) return {};
    const Buffer buffer(nftnl_udata_buf_alloc(NFT_USERDATA_MAXLEN));
    if (!buffer) throw_errno(ENOMEM, "user data of a set");
    auto* raw = buffer.get();
    nftnl_udata_put_u32(raw, NFTNL_UDATA_SET_KEYBYTEORDER, key.size() == 1 ? key.front()->order : none);
    if (set.map) nftnl_udata_put_u32(raw, NFTNL_UDATA_SET_DATABYTEORDER, zone_field.order);
    auto* nest = nftnl_udata_nest_start(raw, NFTNL_UDATA_SET_KEY_TYPEOF);
    put(raw, key);
    nftnl_udata_nest_end(raw, nest);
    if (set.map) {
        nest = nftnl_udata_nest_start(raw, NFTNL_UDATA_SET_DATA_TYPEOF);
        put(raw, zone_field);
        nftnl_udata_nest_end(raw, nest);
        nftnl_udata_put_u32(raw, NFTNL_UDATA_SET_DATA_INTERVAL, 0);
    }
    return {static_cast<const char*>(nftnl_udata_buf_data(raw)), nftnl_udata_buf_len(raw)};
}

} // namespace ctcached
