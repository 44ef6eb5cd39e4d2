#include "kernel/netlink.hpp"

#include "kernel/nft_message.hpp"

#include <fmt/format.h>
#include <linux/netlink.h>
#include <sys/socket.h>

#include <cerrno>
#include <vector>

namespace ctcached {

namespace {

constexpr std::size_t receive_bytes = 65'536; // the kernel makes dump parts of 32 KiB at most (netlink_dump)

// What is left of an answer that was given up half-way.
void forget_old_answers(int fd, std::span<char> buffer, std::string_view who) {
    while (true) {
        const auto datagram = receive_datagram(fd, buffer, who);
        // ENOBUFS: more may lie behind what was lost.
        if (!datagram && datagram.error().error != ENOBUFS) return;
    }
}

} // namespace

Result<void> send_datagram(int fd, std::string_view bytes, std::string_view who) {
    sockaddr_nl kernel{};
    kernel.nl_family = AF_NETLINK;
    while (::sendto(fd, bytes.data(), bytes.size(), 0, reinterpret_cast<const sockaddr*>(&kernel), sizeof kernel) < 0)
        if (errno != EINTR) return failure(errno, fmt::format("{}: send {} bytes", who, bytes.size()));
    return {};
}

Result<std::span<const char>> receive_datagram(int fd, std::span<char> buffer, std::string_view who) {
    while (true) {
        sockaddr_nl sender{};
        iovec vector{buffer.data(), buffer.size()};
        msghdr message{};
        message.msg_name = &sender;
        message.msg_namelen = sizeof sender;
        message.msg_iov = &vector;
        message.msg_iovlen = 1;
        const auto length = ::recvmsg(fd, &message, MSG_DONTWAIT);
        if (length < 0 && errno == EINTR) continue;
        if (length < 0) return failure(errno, fmt::format("{}: receive", who));
        if ((message.msg_flags & MSG_TRUNC) != 0) return failure(EMSGSIZE, fmt::format("{}: receive", who));
        if (sender.nl_pid == 0 && length > 0) return buffer.first(static_cast<std::size_t>(length));
    }
}

Result<Fd> open_netlink(int protocol, std::string_view who) {
    Fd fd(::socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, protocol));
    if (!fd) return failure(errno, fmt::format("{}: open", who));
    sockaddr_nl address{};
    address.nl_family = AF_NETLINK;
    if (::bind(fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) < 0)
        return failure(errno, fmt::format("{}: bind", who));
    // A kernel that can do neither says less, and at more length.
    const int on = 1;
    for (const int option : {NETLINK_CAP_ACK, NETLINK_EXT_ACK})
        (void)::setsockopt(fd.get(), SOL_NETLINK, option, &on, sizeof on);
    return fd;
}

Result<std::string> ask_kernel(int fd, std::string_view request, std::string_view what) {
    std::vector<char> buffer(receive_bytes);
    forget_old_answers(fd, buffer, what);
    if (auto sent = send_datagram(fd, request, what); !sent) return std::unexpected(sent.error());
    std::string replies;
    bool interrupted = false;
    while (true) {
        const auto datagram = receive_datagram(fd, buffer, what);
        if (!datagram) return std::unexpected(datagram.error());
        const auto messages = split_messages(*datagram);
        if (!messages) return failure(EBADMSG, what);
        replies.append(datagram->data(), datagram->size());
        replies.resize(NLMSG_ALIGN(replies.size()));
        for (const NftMessage& message : *messages) {
            interrupted |= (message.flags & NLM_F_DUMP_INTR) != 0;
            const auto reply = decode_reply(message);
            if (!reply) continue;
            if (reply->error != 0)
                return failure(reply->error,
                               reply->text.empty() ? std::string(what) : fmt::format("{}: {}", what, reply->text));
            if (interrupted) return failure(EINTR, what);
            return replies;
        }
    }
}

} // namespace ctcached
