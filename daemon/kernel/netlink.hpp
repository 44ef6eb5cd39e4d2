// One datagram to the kernel, one from it, and a question with its answers: what the netlink sockets share.
//
// The kernel answers within sendmsg() and makes the next part of a dump while one is read (net/netlink/af_netlink.c),
// so an empty queue before the end means that the answer was lost, and nothing here waits.
//
// `who` begins the text of a failure ("conntrack socket").
#pragma once

#include "base/error.hpp"
#include "base/handle.hpp"

#include <span>
#include <string>
#include <string_view>

namespace ctcached {

[[nodiscard]] Result<void> send_datagram(int fd, std::string_view bytes, std::string_view who);

// Into `buffer`, never waiting: EAGAIN when there is none, EMSGSIZE when it did not fit, ENOBUFS when some were lost.
// The sender is the kernel; what a process sent is dropped.
[[nodiscard]] Result<std::span<const char>> receive_datagram(int fd, std::span<char> buffer, std::string_view who);

// A bound socket whose errors come with the kernel's words and without an echo of the request.
[[nodiscard]] Result<Fd> open_netlink(int protocol, std::string_view who);

// One request (with NLM_F_ACK or NLM_F_DUMP) and all of its answers in one run of bytes. A refusal is a failure with
// the kernel's words, a dump that was overtaken by a change one with EINTR. `what` begins its text.
[[nodiscard]] Result<std::string> ask_kernel(int fd, std::string_view request, std::string_view what);

} // namespace ctcached
