// The event loop and its sources, as values.
//
// A source lives as long as its object; moving the object does not move what the C library points to. Callbacks are
// entered through one trampoline, the only place where an exception meets C: it ends the loop and run() throws it
// again.
#pragma once

#include "base/handle.hpp"

#include <systemd/sd-event.h>

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>

namespace ctcached {

class Event;

// A registered callback; disabled and released with the object.
class EventSource {
public:
    EventSource() = default;
    explicit operator bool() const { return static_cast<bool>(source_); }
    void enable(bool on);

private:
    friend class Event;
    Handle<sd_event_source, sd_event_source_disable_unref> source_;
};

class Event {
public:
    Event();
    [[nodiscard]] sd_event* get() const { return event_.get(); }

    // `callback(revents)` while `fd` has any of `events` (EPOLLIN, ...). The caller keeps the fd open meanwhile.
    [[nodiscard]] EventSource add_io(int fd, std::uint32_t events, std::function<void(std::uint32_t)> callback);
    // Once, after `delay`; restart() starts it anew.
    [[nodiscard]] EventSource add_timer(std::chrono::microseconds delay, std::function<void()> callback);
    // The signal must be blocked in every thread.
    [[nodiscard]] EventSource add_signal(int signal, std::function<void()> callback);
    // Runs once, when everything that is ready has been served.
    [[nodiscard]] EventSource add_defer(std::function<void()> callback);
    static void restart(EventSource& timer, std::chrono::microseconds delay);

    // WATCHDOG=1 at half of WATCHDOG_USEC, when the service manager asks for it.
    void enable_watchdog();
    // Until exit(); returns its code. Rethrows what a callback threw.
    int run();
    void exit(int code);

private:
    struct State;
    Handle<sd_event, sd_event_unref> event_;
    std::shared_ptr<State> state_; // what the trampoline caught
};

} // namespace ctcached
