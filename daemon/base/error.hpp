// The two kinds of error.
//
// *Fatal*: a system call that must work did not (no memory, no event loop, no netlink socket). It throws
// std::system_error with the call and its object in the text; main() and the event trampoline catch it, nobody else.
//
// *Expected*: a bad policy, a refused batch, a missing module. It is a returned value, std::expected<T, Failure>, that
// the caller must handle: report it, keep the old state, try again when the cause changes. A Failure carries the errno
// of the kernel (0 where there is none) and a sentence that names the object, ready to be shown to an administrator.
#pragma once

#include <expected>
#include <string>
#include <string_view>

namespace ctcached {

struct Failure {
    int error = 0;    // errno, positive; 0: none
    std::string text; // what failed, on which object, and why

    bool operator==(const Failure&) const = default;
};

template <typename T>
using Result = std::expected<T, Failure>;

// "what: strerror(error)", as an expected failure.
[[nodiscard]] std::unexpected<Failure> failure(int error, std::string_view what);

// Fatal: throws std::system_error(error, what).
[[noreturn]] void throw_errno(int error, std::string_view what);

// Fatal unless value >= 0: `value` is the -errno convention of systemd's libraries. Returns the value.
int check(int value, std::string_view what);

} // namespace ctcached
