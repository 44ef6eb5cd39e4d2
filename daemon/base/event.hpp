// The event loop and its sources, as values.
//
// A source lives as long as its object; moving the object does not move what the C library points to. Callbacks are
// entered through one trampoline, guard(), the only place where an exception meets C: it ends the loop and run() throws
// it again. A callback may drop its own source: sd-event frees it when the callback has returned.
#pragma once

#include "base/error.hpp"
#include "base/handle.hpp"

#include <sys/inotify.h>
#include <systemd/sd-event.h>

#include <chrono>
#include <cstdint>
#include <exception>
#include <filesystem>
#include <functional>
#include <memory>
#include <utility>

namespace ctcached {

class Event;

// A registered callback; disabled and released with the object.
class EventSource {
public:
    EventSource() = default;
    explicit operator bool() const { return static_cast<bool>(source_); }
    // Off: what becomes ready meanwhile waits. A timer or defer that is turned on runs once.
    void enable(bool on);

private:
    friend class Event;
    Handle<sd_event_source, sd_event_source_disable_unref> source_;
    int on_ = SD_EVENT_ON; // or SD_EVENT_ONESHOT
};

class Event {
public:
    Event();
    Event(const Event&) = delete; // its callbacks point to it
    Event& operator=(const Event&) = delete;
    ~Event() = default;
    [[nodiscard]] sd_event* get() const { return event_.get(); }

    // `callback(revents)` while `fd` has any of `events` (EPOLLIN, ...). The caller keeps the fd open meanwhile.
    [[nodiscard]] EventSource add_io(int fd, std::uint32_t events, std::function<void(std::uint32_t)> callback);
    // Once, after `delay`; restart() starts it anew.
    [[nodiscard]] EventSource add_timer(std::chrono::microseconds delay, std::function<void()> callback);
    // The signal must be blocked in every thread.
    [[nodiscard]] EventSource add_signal(int signal, std::function<void()> callback);
    // Runs once, when everything that is ready has been served.
    [[nodiscard]] EventSource add_defer(std::function<void()> callback);
    // Events (IN_CREATE, ...) of one inode, which must exist (ENOENT, EACCES, ENOTDIR; ENOSPC: no watches are left).
    // PathWatch is what follows a path.
    [[nodiscard]] Result<EventSource> add_inotify(const std::filesystem::path& path, std::uint32_t mask,
                                                  std::function<void(const inotify_event&)> callback);
    static void restart(EventSource& timer, std::chrono::microseconds delay);

    // WATCHDOG=1 at half of WATCHDOG_USEC, when the service manager asks for it.
    void enable_watchdog();
    // Until exit(); returns its code. Rethrows what a callback threw. Once per object.
    int run();
    void exit(int code);

    // Runs `work` below a callback of a C library. What it throws ends the loop; the callback returns `otherwise`.
    template <typename Work, typename Value>
    Value guard(Value otherwise, Work&& work) noexcept {
        try {
            return std::forward<Work>(work)();
        } catch (...) {
            caught(std::current_exception());
            return otherwise;
        }
    }

private:
    template <typename... Arguments>
    struct Callback;
    template <typename... Arguments>
    EventSource adopt(sd_event_source* source, std::unique_ptr<Callback<Arguments...>> callback, int on);
    void caught(std::exception_ptr exception) noexcept;

    Handle<sd_event, sd_event_unref> event_;
    std::exception_ptr caught_; // the first one
};

} // namespace ctcached
