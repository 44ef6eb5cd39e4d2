// A name on a bus that may be absent, restarted or gone.
//
// States: waiting (a timer is set, 0.1 s to 5 s, doubled with each failure) -> connecting (objects are registered, the
// name is asked for; nothing blocks) -> ready (the name is ours) -> waiting again when the connection ends for whatever
// reason. A name that another process owns is a failure like any other: we do not queue for it and do not take it, we
// ask again, so it is ours within seconds after that process has ended.
#pragma once

#include "base/event.hpp"

#include <systemd/sd-bus.h>

#include <chrono>
#include <functional>
#include <string>

namespace ctcached {

class Connection {
public:
    struct Hooks {
        std::function<void(sd_bus*)> attach; // register objects on a new connection
        std::function<void()> detach;        // drop everything that refers to it
    };
    // `address`: "system", "session", "none" or a D-Bus address.
    Connection(Event& event, std::string address, std::string name, Hooks hooks);
    Connection(const Connection&) = delete;
    Connection& operator=(const Connection&) = delete;
    ~Connection();

    // The bus while it is ready, nullptr otherwise.
    [[nodiscard]] sd_bus* ready() const { return ready_ ? bus_.get() : nullptr; }
    // Why the last attempt or connection failed, as a sentence; empty while the first one is under way, when it is
    // ready, or when no bus is wanted.
    [[nodiscard]] const std::string& problem() const { return problem_; }

private:
    void connect();
    int open();
    void named(sd_bus_message* answer);
    void lost(const std::string& reason);
    void drop();

    Event& event_;
    std::string address_;
    std::string name_;
    Hooks hooks_;
    EventSource timer_;
    std::chrono::milliseconds delay_;
    Handle<sd_bus, sd_bus_close_unref> bus_;
    Handle<sd_bus_slot, sd_bus_slot_unref> disconnected_;
    Handle<sd_bus_slot, sd_bus_slot_unref> request_;
    bool ready_ = false;
    bool waiting_ = false; // for the timer
    std::string problem_;
};

} // namespace ctcached
