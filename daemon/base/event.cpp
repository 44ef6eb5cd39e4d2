// sd-event under values.
//
// Each source owns its std::function through sd-event's destroy callback, so the function lives exactly as long as the
// library may call it: to the end of a dispatch even when the EventSource is dropped inside it. sd-event calls with a
// void pointer; `entry` gives it its type back and enters the function under Event::guard().
//
// The facts used here are those of systemd 252, src/libsystemd/sd-event/sd-event.c: a source that is released while it
// is dispatched is freed afterwards (event_source_free); the loop ends at once after sd_event_exit() (sd_event_run);
// inotify sources of one priority share one inotify object, and an overflow is told to all of them
// (event_inotify_data_process).
#include "base/event.hpp"

#include <fmt/format.h>

#include <cstdlib>
#include <ctime>

namespace ctcached {

namespace {

// Timers may be late by this much, so that wake-ups can be shared (sd-event's own default is 250 ms).
constexpr std::chrono::microseconds timer_accuracy{1000};

} // namespace

template <typename... Arguments>
struct Event::Callback {
    Event& event;
    std::function<void(Arguments...)> function;

    // `constants` are the arguments of sd-event's callback that the function does not want.
    static int enter(void* userdata, Arguments... arguments) noexcept {
        auto* self = static_cast<Callback*>(userdata);
        return self->event.guard(0, [&] {
            self->function(arguments...);
            return 0;
        });
    }
};

template <typename... Arguments>
EventSource Event::adopt(sd_event_source* source, std::unique_ptr<Callback<Arguments...>> callback, int on) {
    EventSource result;
    result.source_.reset(source);
    result.on_ = on;
    check(sd_event_source_set_destroy_callback(
              source, [](void* userdata) { delete static_cast<Callback<Arguments...>*>(userdata); }),
          "event loop: destroy callback");
    (void)callback.release(); // the source's from here on
    return result;
}

void EventSource::enable(bool on) {
    check(sd_event_source_set_enabled(source_.get(), on ? on_ : SD_EVENT_OFF), "event loop: enable source");
}

Event::Event() {
    sd_event* event = nullptr;
    check(sd_event_new(&event), "event loop");
    event_.reset(event);
}

EventSource Event::add_io(int fd, std::uint32_t events, std::function<void(std::uint32_t)> callback) {
    auto owned = std::make_unique<Callback<std::uint32_t>>(*this, std::move(callback));
    sd_event_source* source = nullptr;
    check(sd_event_add_io(
              get(), &source, fd, events,
              [](sd_event_source*, int, std::uint32_t revents, void* userdata) {
                  return Callback<std::uint32_t>::enter(userdata, revents);
              },
              owned.get()),
          fmt::format("event loop: watch descriptor {}", fd));
    return adopt(source, std::move(owned), SD_EVENT_ON);
}

EventSource Event::add_timer(std::chrono::microseconds delay, std::function<void()> callback) {
    auto owned = std::make_unique<Callback<>>(*this, std::move(callback));
    sd_event_source* source = nullptr;
    check(sd_event_add_time_relative(
              get(), &source, CLOCK_MONOTONIC, static_cast<std::uint64_t>(delay.count()),
              static_cast<std::uint64_t>(timer_accuracy.count()),
              [](sd_event_source*, std::uint64_t, void* userdata) { return Callback<>::enter(userdata); }, owned.get()),
          "event loop: timer");
    return adopt(source, std::move(owned), SD_EVENT_ONESHOT);
}

EventSource Event::add_signal(int signal, std::function<void()> callback) {
    auto owned = std::make_unique<Callback<>>(*this, std::move(callback));
    sd_event_source* source = nullptr;
    check(sd_event_add_signal(
              get(), &source, signal,
              [](sd_event_source*, const signalfd_siginfo*, void* userdata) { return Callback<>::enter(userdata); },
              owned.get()),
          fmt::format("event loop: signal {}", signal));
    return adopt(source, std::move(owned), SD_EVENT_ON);
}

EventSource Event::add_defer(std::function<void()> callback) {
    auto owned = std::make_unique<Callback<>>(*this, std::move(callback));
    sd_event_source* source = nullptr;
    check(
        sd_event_add_defer(
            get(), &source, [](sd_event_source*, void* userdata) { return Callback<>::enter(userdata); }, owned.get()),
        "event loop: defer");
    auto result = adopt(source, std::move(owned), SD_EVENT_ONESHOT);
    check(sd_event_source_set_priority(source, SD_EVENT_PRIORITY_IDLE), "event loop: priority");
    return result;
}

Result<EventSource> Event::add_inotify(const std::filesystem::path& path, std::uint32_t mask,
                                       std::function<void(const inotify_event&)> callback) {
    using Inotify = Callback<const inotify_event&>;
    auto owned = std::make_unique<Inotify>(*this, std::move(callback));
    sd_event_source* source = nullptr;
    const int error = sd_event_add_inotify(
        get(), &source, path.c_str(), mask,
        [](sd_event_source*, const inotify_event* event, void* userdata) { return Inotify::enter(userdata, *event); },
        owned.get());
    if (error < 0) return failure(-error, fmt::format("{}: watch", path.string()));
    return adopt(source, std::move(owned), SD_EVENT_ON);
}

void Event::restart(EventSource& timer, std::chrono::microseconds delay) {
    check(sd_event_source_set_time_relative(timer.source_.get(), static_cast<std::uint64_t>(delay.count())),
          "event loop: timer");
    timer.enable(true);
}

void Event::enable_watchdog() { check(sd_event_set_watchdog(get(), 1), "event loop: watchdog"); }

int Event::run() {
    const int code = check(sd_event_loop(get()), "event loop");
    if (caught_) std::rethrow_exception(std::exchange(caught_, nullptr));
    return code;
}

void Event::exit(int code) { check(sd_event_exit(get(), code), "event loop: exit"); }

void Event::caught(std::exception_ptr exception) noexcept {
    if (!caught_) caught_ = std::move(exception);
    (void)sd_event_exit(get(), EXIT_FAILURE); // fails only when the loop has ended already
}

} // namespace ctcached
