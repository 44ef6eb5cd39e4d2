// sd-bus connects, authenticates and says Hello in the background once it hangs on the event loop (sd_bus_start(3)),
// and what is sent meanwhile is queued; so asking for the name at once costs no waiting, and its answer is the proof
// that everything before it has worked. The end of a connection, also one that never got ready, comes as the local
// signal Disconnected (sd-bus.c, process_closing). It is dropped from the timer's callback and not from the signal's,
// which runs inside it.
#include "bus/connection.hpp"

#include <fmt/format.h>
#include <spdlog/spdlog.h>

#include <algorithm>
#include <cstring>
#include <utility>

namespace ctcached {

namespace {

using namespace std::chrono_literals;

constexpr auto first_delay = 100ms;
constexpr auto last_delay = 5s;

// org.freedesktop.DBus.RequestName, D-Bus specification: the replies that mean success.
constexpr std::uint32_t primary_owner = 1;
constexpr std::uint32_t already_owner = 4;

} // namespace

Connection::Connection(Event& event, std::string address, std::string name, Hooks hooks)
    : event_(event), address_(std::move(address)), name_(std::move(name)), hooks_(std::move(hooks)),
      delay_(first_delay) {
    if (address_ == "none") return;
    timer_ = event_.add_timer(0s, [this] { connect(); });
}

Connection::~Connection() { drop(); }

int Connection::open() {
    sd_bus* bus = nullptr;
    if (address_ == "system" || address_ == "session") {
        const int error = address_ == "system" ? sd_bus_open_system(&bus) : sd_bus_open_user(&bus);
        bus_.reset(bus);
        return error;
    }
    check(sd_bus_new(&bus), "D-Bus connection");
    bus_.reset(bus);
    int error = sd_bus_set_address(bus, address_.c_str());
    if (error >= 0) error = sd_bus_set_bus_client(bus, 1);
    if (error >= 0) error = sd_bus_start(bus);
    return error;
}

void Connection::connect() {
    drop();
    waiting_ = false;
    int error = open();
    // Otherwise sd-bus flushes at the loop's end, and that waits for a bus that does not read.
    if (error >= 0) error = sd_bus_set_close_on_exit(bus_.get(), 0);
    if (error >= 0) error = sd_bus_attach_event(bus_.get(), event_.get(), SD_EVENT_PRIORITY_NORMAL);
    if (error < 0) return lost(std::strerror(-error));

    sd_bus_slot* slot = nullptr;
    check(sd_bus_match_signal(
              bus_.get(), &slot, "org.freedesktop.DBus.Local", "/org/freedesktop/DBus/Local",
              "org.freedesktop.DBus.Local", "Disconnected",
              [](sd_bus_message*, void* userdata, sd_bus_error*) {
                  auto* self = static_cast<Connection*>(userdata);
                  return self->event_.guard(0, [&] {
                      self->lost("the connection ended");
                      return 0;
                  });
              },
              this),
          "D-Bus: match Disconnected");
    disconnected_.reset(slot);
    hooks_.attach(bus_.get());

    error = sd_bus_request_name_async(
        bus_.get(), &slot, name_.c_str(), 0,
        [](sd_bus_message* answer, void* userdata, sd_bus_error*) {
            auto* self = static_cast<Connection*>(userdata);
            return self->event_.guard(0, [&] {
                self->named(answer);
                return 0;
            });
        },
        this);
    if (error < 0) return lost(std::strerror(-error));
    request_.reset(slot);
}

void Connection::named(sd_bus_message* answer) {
    if (const auto* error = sd_bus_message_get_error(answer))
        return lost(fmt::format("{}: {}", error->name, error->message ? error->message : ""));
    std::uint32_t result = 0;
    check(sd_bus_message_read(answer, "u", &result), "D-Bus: answer of RequestName");
    if (result != primary_owner && result != already_owner)
        return lost(fmt::format("another process owns the name {}", name_));
    ready_ = true;
    delay_ = first_delay;
    problem_.clear();
    spdlog::info("{} bus: {} is ours", address_, name_);
}

void Connection::lost(const std::string& reason) {
    ready_ = false;
    if (std::exchange(waiting_, true)) return; // the pending request fails first, then the connection ends
    auto problem = fmt::format("{} bus: {}", address_, reason);
    if (problem != problem_) spdlog::warn("{}; trying again", problem); // once, not at each attempt
    problem_ = std::move(problem);
    Event::restart(timer_, delay_);
    delay_ = std::min<std::chrono::milliseconds>(delay_ * 2, last_delay);
}

void Connection::drop() {
    ready_ = false;
    if (!bus_) return;
    hooks_.detach(); // slots keep the connection alive
    request_.reset();
    disconnected_.reset();
    bus_.reset();
}

} // namespace ctcached
