// A request goes through two questions: the bus driver's GetConnectionUnixUser, and polkit's CheckAuthorization about
// the same bus name (subject "system-bus-name": polkit asks the bus itself, so a caller cannot change its uid between
// the two; process ids can be reused, CVE-2013-4288). Each answer is read by one member function, `next`.
#include "bus/authority.hpp"

#include "base/error.hpp"

#include <fmt/format.h>
#include <spdlog/spdlog.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>

namespace ctcached {

namespace {

using namespace std::chrono_literals;
using std::chrono::steady_clock;

constexpr std::size_t max_requests = 1024;    // that wait for anything
constexpr std::size_t max_bytes = 32U << 20U; // which they keep
constexpr std::size_t max_asked = 64;         // that wait for polkit
constexpr std::size_t max_asked_by_one_user = 8;

// Unprivileged readers may spend a second at once and a tenth of a CPU in the long run.
constexpr steady_clock::duration max_budget = 1s;
constexpr int budget_share = 10;

// The bus driver answers at once; polkit reads rules, or asks a human.
constexpr std::uint64_t bus_timeout = 10'000'000;
constexpr std::uint64_t polkit_timeout = 10'000'000;
constexpr std::uint64_t human_timeout = 120'000'000;

// CheckAuthorization's flags (polkit's D-Bus reference): an agent may ask the user.
constexpr std::uint32_t allow_user_interaction = 1;

const char* action_id(Action action) {
    return action == Action::read ? "org.ctcached1.read" : "org.ctcached1.configure";
}

std::string text_of(const sd_bus_error* error) {
    return fmt::format("{}: {}", error->name, error->message ? error->message : "no message");
}

} // namespace

struct Authority::Request {
    Request(Authority& owner, sd_bus_message* message, Action wanted, std::size_t size, Work then)
        : authority(owner), call(sd_bus_message_ref(message)), action(wanted), bytes(size), work(std::move(then)) {}

    Authority& authority;
    Message call;
    Action action;
    std::size_t bytes;
    Work work;
    bool asked = false; // waits for polkit
    std::uint32_t uid = 0;
    Requests::iterator self;
    void (Authority::*next)(Requests::iterator, sd_bus_message*) = nullptr;
    Slot slot;
};

Authority::Authority(Event& event) : event_(event), budget_(max_budget), refilled_(steady_clock::now()) {}

Authority::~Authority() = default;

void Authority::clear() {
    requests_.clear();
    bytes_ = 0;
}

void Authority::ask(sd_bus_message* call, Action action, std::size_t bytes, Work work) {
    if (requests_.size() >= max_requests || bytes_ + bytes > max_bytes)
        return reply_error(call, bus_error::limits, "too many calls are waiting; try again later");
    requests_.emplace_back(*this, call, action, bytes, std::move(work));
    const auto request = std::prev(requests_.end());
    request->self = request;
    bytes_ += bytes;
    call_bus(request);
}

void Authority::send(Requests::iterator request, sd_bus_message* question, std::uint64_t timeout,
                     void (Authority::*next)(Requests::iterator, sd_bus_message*)) {
    sd_bus_slot* slot = nullptr;
    request->next = next;
    const int error = sd_bus_call_async(
        sd_bus_message_get_bus(request->call.get()), &slot, question,
        [](sd_bus_message* answer, void* userdata, sd_bus_error*) {
            auto* waiting = static_cast<Request*>(userdata);
            auto& authority = waiting->authority;
            return authority.event_.guard(0, [&] {
                (authority.*waiting->next)(waiting->self, answer);
                return 0;
            });
        },
        &*request, timeout);
    if (error < 0) return deny(request, bus_error::access_denied, fmt::format("cannot ask: {}", std::strerror(-error)));
    request->slot.reset(slot);
}

void Authority::call_bus(Requests::iterator request) {
    const char* sender = sd_bus_message_get_sender(request->call.get());
    if (!sender) return deny(request, bus_error::access_denied, "the call has no sender");
    sd_bus_message* question = nullptr;
    check(sd_bus_message_new_method_call(sd_bus_message_get_bus(request->call.get()), &question, "org.freedesktop.DBus",
                                         "/org/freedesktop/DBus", "org.freedesktop.DBus", "GetConnectionUnixUser"),
          "D-Bus: GetConnectionUnixUser");
    const Message owned(question);
    check(sd_bus_message_append(question, "s", sender), "D-Bus: GetConnectionUnixUser");
    send(request, question, bus_timeout, &Authority::call_polkit);
}

void Authority::call_polkit(Requests::iterator request, sd_bus_message* answer) {
    if (const auto* error = sd_bus_message_get_error(answer))
        return deny(request, bus_error::access_denied, "the bus does not say who calls: " + text_of(error));
    if (sd_bus_message_read(answer, "u", &request->uid) <= 0)
        return deny(request, bus_error::access_denied, "the bus does not say who calls: malformed answer");
    if (request->uid == 0 || request->uid == geteuid()) return run(request);

    const auto asked = [](const Request& other) { return other.asked; };
    const auto same_user = [&](const Request& other) { return other.asked && other.uid == request->uid; };
    if (std::count_if(requests_.begin(), requests_.end(), asked) >= static_cast<std::ptrdiff_t>(max_asked) ||
        std::count_if(requests_.begin(), requests_.end(), same_user) >=
            static_cast<std::ptrdiff_t>(max_asked_by_one_user))
        return deny(request, bus_error::limits, "too many calls wait for authorization; try again later");
    if (request->action == Action::read) {
        const auto now = steady_clock::now();
        budget_ = std::min(max_budget, budget_ + (now - std::exchange(refilled_, now)) / budget_share);
        if (budget_ <= steady_clock::duration::zero())
            return deny(request, bus_error::limits, "readers have used up their share of time; try again later");
    }

    auto* call = request->call.get();
    const bool interactive =
        request->action == Action::configure && sd_bus_message_get_allow_interactive_authorization(call) > 0;
    sd_bus_message* question = nullptr;
    check(sd_bus_message_new_method_call(sd_bus_message_get_bus(call), &question, "org.freedesktop.PolicyKit1",
                                         "/org/freedesktop/PolicyKit1/Authority",
                                         "org.freedesktop.PolicyKit1.Authority", "CheckAuthorization"),
          "D-Bus: CheckAuthorization");
    const Message owned(question);
    check(sd_bus_message_append(question, "(sa{sv})sa{ss}us", "system-bus-name", 1, "name", "s",
                                sd_bus_message_get_sender(call), action_id(request->action), 0,
                                interactive ? allow_user_interaction : 0U, ""),
          "D-Bus: CheckAuthorization");
    request->asked = true;
    send(request, question, interactive ? human_timeout : polkit_timeout, &Authority::decide);
}

void Authority::decide(Requests::iterator request, sd_bus_message* answer) {
    request->asked = false;
    if (const auto* error = sd_bus_message_get_error(answer)) {
        if (request->action == Action::read) return run(request);
        return deny(request, bus_error::access_denied,
                    "only root may do this, as polkit does not answer: " + text_of(error));
    }
    int authorized = 0;
    int challenge = 0;
    if (sd_bus_message_enter_container(answer, 'r', "bba{ss}") <= 0 ||
        sd_bus_message_read(answer, "bb", &authorized, &challenge) <= 0)
        return deny(request, bus_error::access_denied, "polkit's answer is malformed");
    if (authorized) return run(request);
    if (challenge)
        return deny(request, bus_error::interaction,
                    fmt::format("{} needs authentication, and the call does not allow to ask for it",
                                action_id(request->action)));
    deny(request, bus_error::access_denied, fmt::format("polkit does not allow {}", action_id(request->action)));
}

void Authority::run(Requests::iterator request) {
    const Caller caller{request->uid == 0 || request->uid == geteuid()};
    const auto start = steady_clock::now();
    // Taken out first: the work may end the connection, and clear() with it.
    Requests running;
    running.splice(running.end(), requests_, request);
    bytes_ -= request->bytes;
    request->work(request->call.get(), caller);
    if (!caller.privileged && request->action == Action::read) budget_ -= steady_clock::now() - start;
}

void Authority::deny(Requests::iterator request, const char* name, const std::string& text) {
    spdlog::debug("D-Bus: {} of user {} denied: {}", sd_bus_message_get_member(request->call.get()), request->uid,
                  text);
    reply_error(request->call.get(), name, text);
    bytes_ -= request->bytes;
    requests_.erase(request);
}

} // namespace ctcached
