// The reader of netlink bytes: every length is checked here, so that no decoder has to.
#include "kernel/nft_message.hpp"

#include <endian.h>
#include <linux/netfilter/nfnetlink.h>
#include <linux/netlink.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <memory>

namespace ctcached {

namespace {

// Integers of netlink may stand unaligned.
template <typename T>
std::optional<T> number(std::optional<std::string_view> payload) {
    if (!payload || payload->size() != sizeof(T)) return std::nullopt;
    T value{};
    std::memcpy(&value, std::to_address(payload->begin()), sizeof(T));
    return value;
}

// Calls `visit(type, payload)` for each attribute; false when the run does not end where an attribute does.
template <typename Visit>
bool walk(std::string_view bytes, Visit visit) {
    while (bytes.size() >= sizeof(nlattr)) {
        nlattr header{};
        std::memcpy(&header, bytes.data(), sizeof header);
        if (header.nla_len < sizeof header || header.nla_len > bytes.size()) return false;
        visit(static_cast<std::uint16_t>(header.nla_type & NLA_TYPE_MASK),
              bytes.substr(sizeof header, header.nla_len - sizeof header));
        bytes.remove_prefix(std::min<std::size_t>(NLA_ALIGN(header.nla_len), bytes.size()));
    }
    return bytes.empty();
}

std::string_view behind(std::string_view bytes, std::size_t length) {
    return bytes.substr(std::min(NLMSG_ALIGN(length), bytes.size()));
}

} // namespace

Attributes::Attributes(std::span<const char> bytes) {
    malformed_ = !walk({bytes.data(), bytes.size()}, [this](std::uint16_t type, std::string_view payload) {
        if (type >= known_types) {
            malformed_ = true;
            return;
        }
        values_[type] = payload;
        present_ |= 1U << type;
    }) || malformed_;
}

bool Attributes::only(std::initializer_list<std::uint16_t> types) const {
    std::uint32_t allowed = 0;
    for (auto type : types) allowed |= 1U << type;
    return !malformed_ && (present_ & ~allowed) == 0;
}

std::optional<std::string_view> Attributes::payload(std::uint16_t type) const {
    if (type >= known_types || (present_ & (1U << type)) == 0) return std::nullopt;
    return values_[type];
}

std::optional<std::string> Attributes::text(std::uint16_t type) const {
    auto bytes = payload(type);
    if (!bytes) return std::nullopt;
    return std::string(bytes->substr(0, bytes->find('\0')));
}

std::optional<std::uint8_t> Attributes::u8(std::uint16_t type) const { return number<std::uint8_t>(payload(type)); }

std::optional<std::uint32_t> Attributes::u32(std::uint16_t type) const {
    auto value = number<std::uint32_t>(payload(type));
    return value ? std::optional(be32toh(*value)) : std::nullopt;
}

std::optional<std::uint64_t> Attributes::u64(std::uint16_t type) const {
    auto value = number<std::uint64_t>(payload(type));
    return value ? std::optional(be64toh(*value)) : std::nullopt;
}

Attributes Attributes::nested(std::uint16_t type) const {
    return Attributes(payload(type).value_or(std::string_view{}));
}

std::vector<Attributes> Attributes::list(std::uint16_t type) const {
    std::vector<Attributes> members;
    walk(payload(type).value_or(std::string_view{}),
         [&](std::uint16_t, std::string_view payload) { members.emplace_back(payload); });
    return members;
}

bool NftMessage::is(int nft_type) const { return type == (NFNL_SUBSYS_NFTABLES << 8 | nft_type); }

std::optional<std::vector<NftMessage>> split_messages(std::span<const char> bytes) {
    std::vector<NftMessage> messages;
    std::string_view rest(bytes.data(), bytes.size());
    while (!rest.empty()) {
        nlmsghdr header{};
        if (rest.size() < sizeof header) return std::nullopt;
        std::memcpy(&header, rest.data(), sizeof header);
        if (header.nlmsg_len < sizeof header || header.nlmsg_len > rest.size()) return std::nullopt;
        auto body = rest.substr(sizeof header, header.nlmsg_len - sizeof header);
        auto& message = messages.emplace_back(NftMessage{.type = header.nlmsg_type,
                                                         .flags = header.nlmsg_flags,
                                                         .sequence = header.nlmsg_seq,
                                                         .port = header.nlmsg_pid,
                                                         .body = body,
                                                         .attributes = {}});
        if (header.nlmsg_type >= NLMSG_MIN_TYPE) {
            if (body.size() < sizeof(nfgenmsg)) return std::nullopt;
            message.family = static_cast<std::uint8_t>(body.front());
            message.attributes = Attributes(behind(body, sizeof(nfgenmsg)));
        }
        rest = behind(rest, header.nlmsg_len);
    }
    return messages;
}

std::optional<NftReply> decode_reply(const NftMessage& message) {
    if (message.type != NLMSG_ERROR && message.type != NLMSG_DONE) return std::nullopt;
    NftReply reply;
    std::int32_t error = 0;
    if (message.body.size() >= sizeof error) std::memcpy(&error, message.body.data(), sizeof error);
    reply.error = error == INT32_MIN ? EPROTO : std::abs(error);
    if ((message.flags & NLM_F_ACK_TLVS) == 0) return reply;
    // An error repeats the request behind itself, its header only when capped (NETLINK_CAP_ACK); the attributes follow.
    std::size_t offset = sizeof error;
    if (message.type == NLMSG_ERROR) {
        offset = sizeof(nlmsgerr);
        if ((message.flags & NLM_F_CAPPED) == 0 && message.body.size() >= sizeof(nlmsgerr)) {
            nlmsgerr echo{};
            std::memcpy(&echo, message.body.data(), sizeof echo);
            offset = sizeof error + NLMSG_ALIGN(std::size_t{echo.msg.nlmsg_len});
        }
    }
    reply.text = Attributes(behind(message.body, offset)).text(NLMSGERR_ATTR_MSG).value_or("");
    return reply;
}

} // namespace ctcached
