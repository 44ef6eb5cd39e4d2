// nftables messages <-> values, without a socket.
//
// Out: a list of changes becomes one batch (begin, messages, end), which the kernel takes whole or not at all
// (net/netfilter/nfnetlink.c, nfnetlink_rcv_batch). Changes of many elements become several messages, since the length
// of a nested attribute has 16 bits, so the batch remembers which change each sequence number belongs to. Its first
// message carries the ruleset's generation: the kernel answers ERESTART when that has moved. Only the last message asks
// for an acknowledgement, which comes after the commit; errors come unasked.
//
// In: dumped messages become an ObservedTable. Decoding is strict: an expression, set or chain with anything in it that
// this daemon never writes is marked as foreign, so it never compares equal to one of ours. Registers are normalised to
// 32-bit words, because the kernel dumps the 16-byte aligned ones under their old numbers.
#pragma once

#include "base/error.hpp"
#include "kernel/nft_message.hpp"
#include "plan/diff.hpp"

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

namespace ctcached {

struct NftBatch {
    std::string bytes;
    std::uint32_t first = 0;          // sequence of the begin; the messages follow one by one
    std::vector<std::size_t> changes; // of each message: the index of its change

    [[nodiscard]] std::uint32_t last() const { return first + static_cast<std::uint32_t>(changes.size()); }
    // nullopt for begin and end.
    [[nodiscard]] std::optional<std::size_t> change(std::uint32_t sequence) const;
};

// `changes` is not empty and has no Foreign expression.
[[nodiscard]] NftBatch encode_batch(const std::vector<Change>& changes, std::uint32_t generation, std::uint32_t first);
// What a change is about, for messages: "map ip4_saddr: add 3 elements".
[[nodiscard]] std::string name_of(const Change& change);
[[nodiscard]] std::string name_of_set(const std::string& set); // "map ip4_saddr", "set zones"

enum class NftQuery { generation, table, chains, rules, sets, elements };
// Of our table only, where the kernel lets us say so; `set` for elements.
[[nodiscard]] std::string encode_query(NftQuery query, std::uint32_t sequence, const std::string& set = {});
// A batch without an end, which the kernel checks and takes back: would it accept a new table with these flags?
[[nodiscard]] std::string encode_table_probe(const std::string& name, AddTable flags, std::uint32_t sequence);

// Takes what is about our table into `table`; other messages are passed over. EBADMSG for a malformed one.
[[nodiscard]] Result<void> decode_into(std::optional<ObservedTable>& table, std::span<const char> messages);
// Puts sets, chains and elements into the order that Ruleset promises. EINTR when an element came twice: a dump goes on
// by the count of what it told, and a hash set that is still growing into more buckets has another order each time
// (net/netfilter/nft_set_hash.c, nft_rhash_walk). Then others are missing, and no generation tells.
[[nodiscard]] Result<void> sort(ObservedTable& table);
[[nodiscard]] std::optional<std::uint32_t> decode_generation(std::span<const char> messages);

// What nft(8) reads to list a set as `typeof`; empty when a field of Set::type_of is not known here.
[[nodiscard]] Bytes set_userdata(const Set& set);

} // namespace ctcached
