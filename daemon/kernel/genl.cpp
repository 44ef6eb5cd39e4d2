#include "kernel/genl.hpp"

#include "kernel/genl_request.hpp"
#include "kernel/netlink.hpp"

#include <fmt/format.h>
#include <linux/genetlink.h>
#include <linux/netlink.h>
#include <sys/socket.h>

#include <cerrno>
#include <cstring>
#include <memory>

namespace ctcached {

namespace {

constexpr const char* who = "generic netlink socket";
// A message is sent whole or not at all: 65,535 zones are 1.8 MB.
constexpr int send_bytes = 4 << 20;
constexpr std::size_t receive_bytes = 65'536;

template <typename T>
std::optional<T> host_number(const Attributes& attributes, std::uint16_t type) {
    const auto payload = attributes.payload(type);
    if (!payload || payload->size() != sizeof(T)) return std::nullopt;
    T value{};
    std::memcpy(&value, std::to_address(payload->begin()), sizeof value);
    return value;
}

void allow_large_requests(int fd) {
    // Beyond net.core.wmem_max only for the administrator of the first user namespace; others get what they may have,
    // and EMSGSIZE from a request that is larger.
    for (const int option : {SO_SNDBUFFORCE, SO_SNDBUF})
        if (::setsockopt(fd, SOL_SOCKET, option, &send_bytes, sizeof send_bytes) == 0) return;
}

} // namespace

std::optional<std::uint8_t> host_u8(const Attributes& attributes, std::uint16_t type) {
    return host_number<std::uint8_t>(attributes, type);
}
std::optional<std::uint16_t> host_u16(const Attributes& attributes, std::uint16_t type) {
    return host_number<std::uint16_t>(attributes, type);
}
std::optional<std::uint32_t> host_u32(const Attributes& attributes, std::uint16_t type) {
    return host_number<std::uint32_t>(attributes, type);
}
std::optional<std::uint64_t> host_u64(const Attributes& attributes, std::uint16_t type) {
    return host_number<std::uint64_t>(attributes, type);
}

Result<std::vector<GenlEvent>> decode_families(std::span<const char> bytes) {
    constexpr std::string_view what = "generic netlink families";
    const auto messages = split_messages(bytes);
    if (!messages) return failure(EBADMSG, what);
    std::vector<GenlEvent> events;
    for (const NftMessage& message : *messages) {
        // The command stands where nfnetlink has its family. Groups come and go with their family.
        const bool appeared = message.family == CTRL_CMD_NEWFAMILY;
        if (message.type != GENL_ID_CTRL || (!appeared && message.family != CTRL_CMD_DELFAMILY)) continue;
        const auto name = message.attributes.text(CTRL_ATTR_FAMILY_NAME);
        const auto id = host_u16(message.attributes, CTRL_ATTR_FAMILY_ID);
        if (message.attributes.malformed() || !name || !id) return failure(EBADMSG, what);
        GenlFamily family{.name = *name,
                          .id = *id,
                          .version = host_u32(message.attributes, CTRL_ATTR_VERSION).value_or(0),
                          .notify = {}};
        for (const Attributes& group : message.attributes.list(CTRL_ATTR_MCAST_GROUPS))
            if (group.text(CTRL_ATTR_MCAST_GRP_NAME) == "notify")
                family.notify = host_u32(group, CTRL_ATTR_MCAST_GRP_ID);
        events.push_back({appeared, std::move(family)});
    }
    return events;
}

Result<Genl> Genl::open() {
    auto questions = open_netlink(NETLINK_GENERIC, who);
    if (!questions) return std::unexpected(questions.error());
    auto events = open_netlink(NETLINK_GENERIC, who);
    if (!events) return std::unexpected(events.error());
    allow_large_requests(questions->get());
    Genl genl(std::move(*questions), std::move(*events));
    const auto controller = genl.find("nlctrl");
    if (!controller) return std::unexpected(controller.error());
    if (!controller->notify) return failure(EPROTO, "generic netlink: the controller has no group \"notify\"");
    const auto group = *controller->notify;
    if (::setsockopt(genl.events(), SOL_NETLINK, NETLINK_ADD_MEMBERSHIP, &group, sizeof group) != 0)
        return failure(errno, fmt::format("{}: join \"notify\"", who));
    return genl;
}

Result<GenlFamily> Genl::find(const std::string& name) {
    const auto what = fmt::format("generic netlink family {}", name);
    GenlRequest request(GENL_ID_CTRL, CTRL_CMD_GETFAMILY, NLM_F_ACK);
    request.put(CTRL_ATTR_FAMILY_NAME, std::string_view(name.c_str(), name.size() + 1));
    const auto replies = ask_kernel(questions_.get(), request.bytes(), what);
    if (!replies) return std::unexpected(replies.error());
    const auto families = decode_families(*replies);
    if (!families) return std::unexpected(families.error());
    if (families->size() != 1) return failure(EBADMSG, what);
    return families->front().family;
}

Result<std::string> Genl::ask(std::string_view request, std::string_view what) {
    return ask_kernel(questions_.get(), request, what);
}

Result<std::vector<GenlEvent>> Genl::news() {
    std::vector<char> buffer(receive_bytes);
    std::vector<GenlEvent> all;
    while (true) {
        const auto datagram = receive_datagram(events_.get(), buffer, who);
        if (!datagram && datagram.error().error == EAGAIN) return all;
        if (!datagram) return std::unexpected(datagram.error());
        auto some = decode_families(*datagram);
        if (!some) return std::unexpected(some.error());
        all.insert(all.end(), some->begin(), some->end());
    }
}

} // namespace ctcached
