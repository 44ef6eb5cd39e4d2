// Ownership of C objects.
//
// Every pointer that a C library hands out lives in a Handle: a unique_ptr whose deleter is the library's own free
// function, fixed at compile time, so a handle is as small as the pointer. A file descriptor is not a pointer and gets
// Fd. Nothing outside this folder calls a free function.
#pragma once

#include <unistd.h>

#include <memory>
#include <utility>

namespace ctcached {

template <auto free_function>
struct Deleter {
    template <typename T>
    void operator()(T* object) const noexcept {
        free_function(object); // NOLINT(bugprone-multi-level-implicit-pointer-conversion): free(3)
    }
};

template <typename T, auto free_function>
using Handle = std::unique_ptr<T, Deleter<free_function>>;

// An open file descriptor, or none (-1).
class Fd {
public:
    Fd() = default;
    explicit Fd(int fd) : fd_(fd) {}
    Fd(Fd&& other) noexcept : fd_(other.release()) {}
    Fd& operator=(Fd&& other) noexcept {
        if (this != &other) reset(other.release());
        return *this;
    }
    ~Fd() { reset(); }

    [[nodiscard]] int get() const { return fd_; }
    [[nodiscard]] int release() { return std::exchange(fd_, -1); }
    explicit operator bool() const { return fd_ >= 0; }
    void reset(int fd = -1) {
        if (fd_ >= 0) ::close(fd_);
        fd_ = fd;
    }

private:
    int fd_ = -1;
};

} // namespace ctcached
