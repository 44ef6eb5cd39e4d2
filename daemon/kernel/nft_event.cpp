// A table of what each message type says; the log only counts.
#include "kernel/nft_event.hpp"

#include "kernel/nft_codec.hpp"

#include <fmt/format.h>
#include <linux/netfilter.h>
#include <linux/netfilter/nf_tables.h>

#include <algorithm>
#include <array>

namespace ctcached {

namespace {

enum class Noun { table, chain, rule, set, element, other };

struct Row {
    int message;
    Noun noun;
    const char* verb;
};
constexpr std::array rows = std::to_array<Row>({
    {NFT_MSG_NEWTABLE, Noun::table, "created or changed"},
    {NFT_MSG_DELTABLE, Noun::table, "deleted"},
    {NFT_MSG_NEWCHAIN, Noun::chain, "created or changed"},
    {NFT_MSG_DELCHAIN, Noun::chain, "deleted"},
    {NFT_MSG_NEWRULE, Noun::rule, "added"},
    {NFT_MSG_DELRULE, Noun::rule, "removed"},
    {NFT_MSG_NEWSET, Noun::set, "created"},
    {NFT_MSG_DELSET, Noun::set, "deleted"},
    {NFT_MSG_NEWSETELEM, Noun::element, "added"},
    {NFT_MSG_DELSETELEM, Noun::element, "removed"},
    {NFT_MSG_NEWOBJ, Noun::other, "object added"},
    {NFT_MSG_DELOBJ, Noun::other, "object removed"},
    {NFT_MSG_NEWFLOWTABLE, Noun::other, "flowtable added"},
    {NFT_MSG_DELFLOWTABLE, Noun::other, "flowtable removed"},
});

std::string sentence(const std::string& object, const std::string& noun, const std::string& verb, std::size_t count) {
    if (noun.empty()) return fmt::format("{} {}", object, verb);
    if (count == 1) return fmt::format("{}: {} {}", object, noun, verb);
    return fmt::format("{}: {} {}s {}", object, count, noun, verb);
}

} // namespace

bool NftEventLog::take(std::span<const char> datagram, std::uint32_t own_port) {
    auto messages = split_messages(datagram);
    if (!messages) return false;
    for (const auto& message : *messages) {
        if (message.is(NFT_MSG_NEWGEN)) {
            close(message.attributes.u32(NFTA_GEN_PROC_PID).value_or(0),
                  message.attributes.text(NFTA_GEN_PROC_NAME).value_or(""));
            continue;
        }
        if (message.port == own_port || message.family != NFPROTO_INET) continue;
        // The name of the table is the first attribute of them all (NFTA_TABLE_NAME, NFTA_CHAIN_TABLE, ...).
        if (message.attributes.text(NFTA_TABLE_NAME) == table_name) note(message);
    }
    return true;
}

void NftEventLog::note(const NftMessage& message) {
    const auto* row = std::ranges::find_if(rows, [&](const auto& r) { return message.is(r.message); });
    if (row == rows.end()) return;
    const auto& attributes = message.attributes;
    auto name = [&](std::uint16_t type) { return attributes.text(type).value_or("?"); };
    Change change{.object = "table", .noun = {}, .verb = row->verb};
    std::size_t count = 1;
    switch (row->noun) {
    case Noun::table:
    case Noun::other: break;
    case Noun::chain: change.object = "chain " + name(NFTA_CHAIN_NAME); break;
    case Noun::set: change.object = name_of_set(name(NFTA_SET_NAME)); break;
    case Noun::rule:
        change.object = "chain " + name(NFTA_RULE_CHAIN);
        change.noun = "rule";
        break;
    case Noun::element:
        change.object = name_of_set(name(NFTA_SET_ELEM_LIST_SET));
        change.noun = "element";
        count = std::max<std::size_t>(attributes.list(NFTA_SET_ELEM_LIST_ELEMENTS).size(), 1);
        break;
    }
    port_ = message.port;
    open_[change] += count;
}

void NftEventLog::close(std::uint32_t pid, const std::string& process) {
    for (const auto& [change, count] : open_)
        done_.push_back({sentence(change.object, change.noun, change.verb, count), port_, pid, process});
    open_.clear();
}

std::vector<NftEvent> NftEventLog::finished(bool all) {
    if (all) close(0, {});
    return std::exchange(done_, {});
}

} // namespace ctcached
