// One datagram to the kernel, one from it: what the netfilter sockets share.
//
// `who` begins the text of a failure ("conntrack socket").
#pragma once

#include "base/error.hpp"

#include <span>
#include <string_view>

namespace ctcached {

[[nodiscard]] Result<void> send_datagram(int fd, std::string_view bytes, std::string_view who);

// Into `buffer`, never waiting: EAGAIN when there is none, EMSGSIZE when it did not fit, ENOBUFS when some were lost.
// The sender is the kernel; what a process sent is dropped.
[[nodiscard]] Result<std::span<const char>> receive_datagram(int fd, std::span<char> buffer, std::string_view who);

} // namespace ctcached
