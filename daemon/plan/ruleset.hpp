// An nftables table as values, equal on both sides of the netlink socket.
//
// The planner makes a Ruleset from the policy, the codec makes one from what the kernel dumps, and diff() compares the
// two. So the values are the kernel's: keys as the bytes that stand in its registers, rules as lists of expressions,
// registers as 32-bit words. What a human reads is made from the plan itself (plan/text.hpp), not from these bytes.
#pragma once

#include <compare>
#include <cstdint>
#include <optional>
#include <string>
#include <variant>
#include <vector>

namespace ctcached {

using Bytes = std::basic_string<char>; // raw bytes; a string for its small-size storage and its ordering

// --- expressions (include/uapi/linux/netfilter/nf_tables.h); `reg` is the index of a 32-bit word, 0-15 ---

enum class MetaKey : std::uint8_t { protocol, mark, iifname, oifname, nfproto, l4proto };
enum class PayloadBase : std::uint8_t { link, network, transport };

struct MetaLoad {
    MetaKey key{};
    std::uint8_t reg = 0;
    bool operator==(const MetaLoad&) const = default;
};
struct PayloadLoad {
    PayloadBase base{};
    std::uint32_t offset = 0; // bytes from the base
    std::uint32_t length = 0; // bytes
    std::uint8_t reg = 0;
    bool operator==(const PayloadLoad&) const = default;
};
struct Compare {
    std::uint8_t reg = 0;
    bool equal = true; // NFT_CMP_EQ, else NFT_CMP_NEQ
    Bytes data;
    bool operator==(const Compare&) const = default;
};
struct BitwiseAnd { // reg = reg & mask
    std::uint8_t reg = 0;
    Bytes mask;
    bool operator==(const BitwiseAnd&) const = default;
};
struct ToNetworkOrder { // a 4-byte host-order value, in place
    std::uint8_t reg = 0;
    bool operator==(const ToNetworkOrder&) const = default;
};
struct Lookup { // breaks when the key is not in the set; `target`: where a map's value goes
    std::string set;
    std::uint8_t reg = 0;
    std::optional<std::uint8_t> target;
    bool operator==(const Lookup&) const = default;
};
struct ZoneLoad { // ct zone, of the flow, whatever its direction
    std::uint8_t reg = 0;
    bool operator==(const ZoneLoad&) const = default;
};
struct ZoneSet {
    std::uint8_t reg = 0;
    bool original = true; // ct original zone set; else both directions
    bool operator==(const ZoneSet&) const = default;
};
enum class VerdictKind : std::uint8_t { accept, jump, returns };
struct Verdict {
    VerdictKind kind = VerdictKind::accept;
    std::string chain; // of a jump
    bool operator==(const Verdict&) const = default;
};
struct Foreign { // an expression that this daemon never writes, in words
    std::string text;
    bool operator==(const Foreign&) const = default;
};
using Expression = std::variant<MetaLoad, PayloadLoad, Compare, BitwiseAnd, ToNetworkOrder, Lookup, ZoneLoad, ZoneSet,
                                Verdict, Foreign>;
using Rule = std::vector<Expression>;

// --- sets, maps, chains ---

struct Element {
    Bytes key{};               // as long as Set::key_bytes
    Bytes key_end{};           // last key of a range of a concatenation (inclusive); empty elsewhere
    bool interval_end = false; // of a set of single ranges: the first key *behind* a range, without value
    std::uint16_t zone = 0;    // value of a map; 0 in a set
    std::string comment{};
    std::uint64_t packets = 0; // counter, as observed; not compared
    std::uint64_t bytes = 0;

    // Same element, whatever its counter says.
    friend bool operator==(const Element& a, const Element& b) { return (a <=> b) == 0; }
    friend std::strong_ordering operator<=>(const Element& a, const Element& b);
};

struct Set {
    std::string name{};
    std::uint32_t key_type = 0;         // nftables datatype ids, 6 bits a field, as nft(8) writes them
    std::uint32_t key_bytes = 0;        // of one field: its own length; of a concatenation: each padded to 4 bytes
    std::vector<std::uint8_t> fields{}; // bytes of each field, for a concatenation of ranges; empty elsewhere
    bool map = false;                   // values are zones (2 bytes, host order)
    bool interval = false;
    std::string type_of{};           // its key as nft(8) lists it: "meta l4proto . th dport"; written, not compared
    std::vector<Element> elements{}; // sorted
    std::string
        foreign{}; // as observed: what of it this daemon never writes (a timeout), in words; makes it another set
};

struct Hook {
    std::string type{};     // "filter", "nat"
    std::uint32_t hook = 0; // NF_INET_*
    std::int32_t priority = 0;
    bool operator==(const Hook&) const = default;
};

struct Chain {
    std::string name{};
    std::optional<Hook> hook{}; // base chains; policy accept always
    std::vector<Rule> rules{};
};

struct Ruleset {
    std::vector<Set> sets{};     // in order of name
    std::vector<Chain> chains{}; // in order of name
};

inline constexpr const char* table_name = "ctcached"; // family inet
inline constexpr const char* zones_set = "zones";     // id -> "name direction", counts opened flows

inline std::strong_ordering operator<=>(const Element& a, const Element& b) {
    if (auto order = a.key <=> b.key; order != 0) return order;
    // An end comes before the start of the next range at the same key, as nft(8) sends them.
    if (a.interval_end != b.interval_end)
        return a.interval_end ? std::strong_ordering::less : std::strong_ordering::greater;
    if (auto order = a.key_end <=> b.key_end; order != 0) return order;
    if (auto order = a.zone <=> b.zone; order != 0) return order;
    return a.comment <=> b.comment;
}

} // namespace ctcached
