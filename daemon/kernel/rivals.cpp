#include "kernel/rivals.hpp"

#include "kernel/netlink.hpp"
#include "kernel/nft_message.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <linux/netfilter.h>
#include <linux/netfilter/nf_tables.h>
#include <linux/netfilter/nfnetlink.h>
#include <linux/netlink.h>

#include <array>
#include <cerrno>
#include <cstring>

namespace ctcached {

namespace {

constexpr std::array modules{"shortcut_fe", "sfe", "ecm", "natflow"};

std::string_view family_name(std::uint8_t family) {
    switch (family) {
    case NFPROTO_IPV4: return "ip";
    case NFPROTO_IPV6: return "ip6";
    case NFPROTO_INET: return "inet";
    default: return "other";
    }
}

std::string encode_dump() {
    nlmsghdr header{};
    header.nlmsg_len = NLMSG_LENGTH(sizeof(nfgenmsg));
    header.nlmsg_type = NFNL_SUBSYS_NFTABLES << 8 | NFT_MSG_GETFLOWTABLE;
    header.nlmsg_flags = NLM_F_REQUEST | NLM_F_DUMP;
    const nfgenmsg generic{.nfgen_family = NFPROTO_UNSPEC, .version = NFNETLINK_V0, .res_id = 0};
    std::string bytes(header.nlmsg_len, '\0');
    std::memcpy(bytes.data(), &header, sizeof header);
    std::memcpy(bytes.data() + NLMSG_HDRLEN, &generic, sizeof generic);
    return bytes;
}

} // namespace

Result<std::vector<std::string>> decode_flowtables(std::span<const char> replies) {
    const auto messages = split_messages(replies);
    if (!messages) return failure(EBADMSG, "nftables: list of flowtables");
    std::vector<std::string> names;
    for (const NftMessage& message : *messages) {
        if (!message.is(NFT_MSG_NEWFLOWTABLE)) continue;
        const auto table = message.attributes.text(NFTA_FLOWTABLE_TABLE);
        const auto name = message.attributes.text(NFTA_FLOWTABLE_NAME);
        if (message.attributes.malformed() || !table || !name) return failure(EBADMSG, "nftables: list of flowtables");
        names.push_back(fmt::format("{} {} {}", family_name(message.family), *table, *name));
    }
    return names;
}

Result<std::string> find_rivals(const System& system) {
    std::vector<std::string> rivals;
    for (const char* module : modules)
        if (system.module_loaded(module)) rivals.push_back(fmt::format("module {}", module));
    const auto fd = open_netlink(NETLINK_NETFILTER, "nftables socket");
    if (!fd) return std::unexpected(fd.error());
    const auto replies = ask_kernel(fd->get(), encode_dump(), "nftables: list of flowtables");
    if (!replies) return std::unexpected(replies.error());
    const auto flowtables = decode_flowtables(*replies);
    if (!flowtables) return std::unexpected(flowtables.error());
    for (const std::string& name : *flowtables) rivals.push_back("flowtable " + name);
    if (rivals.empty()) return {};
    return fmt::format("flows that others forward are neither cached nor counted: {}", fmt::join(rivals, ", "));
}

} // namespace ctcached
