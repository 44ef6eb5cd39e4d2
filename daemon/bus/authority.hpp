// Who may do what: the bus names the caller's user, polkit decides for everyone who is not root.
//
// root, and the user that the daemon runs as, may do everything; so an administrator is served when polkit is not
// installed or hangs. For everyone else polkit is asked about one of two actions. Without polkit, reading stays open,
// as it is by default, and changing is denied. Both questions are asynchronous: the call is kept and answered later.
//
// A caller can make the daemon wait and remember, so everything that waits is bounded: calls in all, their bytes, and
// what one user may have before polkit, who may be asking a human for minutes. And reading costs the daemon time: what
// unprivileged readers spent together is limited to a share of one CPU; root is served all the same.
#pragma once

#include "base/event.hpp"
#include "bus/message.hpp"

#include <chrono>
#include <functional>
#include <list>
#include <string>

namespace ctcached {

enum class Action { read, configure };

class Authority {
public:
    explicit Authority(Event& event);
    Authority(const Authority&) = delete;
    Authority& operator=(const Authority&) = delete;
    ~Authority();

    struct Caller {
        bool privileged = false;
    };
    using Work = std::function<void(sd_bus_message* call, Caller caller)>;

    // Runs `work` when the sender of `call` may do `action`, answers with an error otherwise. `bytes`: what the call
    // keeps in memory while it waits.
    void ask(sd_bus_message* call, Action action, std::size_t bytes, Work work);
    // Forgets all calls that wait (their connection ended).
    void clear();

private:
    struct Request;
    using Requests = std::list<Request>;

    void call_bus(Requests::iterator request);
    void call_polkit(Requests::iterator request, sd_bus_message* answer);
    void decide(Requests::iterator request, sd_bus_message* answer);
    void run(Requests::iterator request);
    void deny(Requests::iterator request, const char* name, const std::string& text);
    void send(Requests::iterator request, sd_bus_message* question, std::uint64_t timeout,
              void (Authority::*next)(Requests::iterator, sd_bus_message*));

    Event& event_;
    Requests requests_;
    std::size_t bytes_ = 0;
    std::chrono::steady_clock::duration budget_; // of time for unprivileged readers
    std::chrono::steady_clock::time_point refilled_;
};

} // namespace ctcached
