#include "base/error.hpp"

#include <fmt/format.h>

#include <cstring>
#include <system_error>

namespace ctcached {

std::unexpected<Failure> failure(int error, std::string_view what) {
    // strerrordesc_np is constant and thread-safe; it answers nullptr for numbers the C library does not know.
    const char* reason = strerrordesc_np(error);
    return std::unexpected(
        Failure{error, reason ? fmt::format("{}: {}", what, reason) : fmt::format("{}: error {}", what, error)});
}

void throw_errno(int error, std::string_view what) {
    throw std::system_error(error, std::generic_category(), std::string(what));
}

int check(int value, std::string_view what) {
    if (value < 0) throw_errno(-value, what);
    return value;
}

} // namespace ctcached
