#include "kernel/netlink.hpp"

#include <fmt/format.h>
#include <linux/netlink.h>
#include <sys/socket.h>

#include <cerrno>

namespace ctcached {

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

} // namespace ctcached
