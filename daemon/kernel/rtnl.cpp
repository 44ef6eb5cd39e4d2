// The links of the namespace.
//
// Two sockets: one hears of changes (RTNLGRP_LINK) and never blocks, one asks for everything. Hearing starts before the
// first question, so no change falls between them; an event that tells what the answer knew already changes nothing.
// When the kernel could not deliver an event (ENOBUFS), everything is asked again.
//
// Events are about a link's index; the name is only what it has now. Messages of family AF_BRIDGE are about the port
// of a bridge (br_ifinfo_notify, net/bridge/br_netlink.c): one that says "deleted" leaves the link where it is.

#include "kernel/rtnl.hpp"

#include <fmt/format.h>
#include <linux/if_link.h>
#include <linux/rtnetlink.h>
#include <netlink/msg.h>
#include <netlink/netlink.h>
#include <netlink/socket.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <exception>
#include <map>

namespace ctcached {

namespace {

constexpr int receive_bytes = 1U << 20U; // some thousand events
constexpr int dump_attempts = 10;

using Socket = Handle<nl_sock, nl_socket_free>;
using Names = std::map<int, std::string>; // by interface index

// What a callback works on, and what it may not throw through C.
struct Reader {
    Names names;
    std::exception_ptr caught;
};

void take(Names& names, nlmsghdr* header) {
    if (header->nlmsg_type != RTM_NEWLINK && header->nlmsg_type != RTM_DELLINK) return;
    std::array<nlattr*, IFLA_MAX + 1> attributes{};
    if (nlmsg_parse(header, sizeof(ifinfomsg), attributes.data(), IFLA_MAX, nullptr) < 0) return;
    const auto* link = static_cast<const ifinfomsg*>(nlmsg_data(header));
    if (link->ifi_family == AF_BRIDGE) return;
    if (header->nlmsg_type == RTM_DELLINK)
        names.erase(link->ifi_index);
    else if (auto* name = attributes[IFLA_IFNAME])
        names[link->ifi_index].assign(
            static_cast<const char*>(nla_data(name)),
            ::strnlen(static_cast<const char*>(nla_data(name)), static_cast<std::size_t>(nla_len(name))));
}

int on_message(nl_msg* message, void* argument) {
    auto& reader = *static_cast<Reader*>(argument);
    try {
        take(reader.names, nlmsg_hdr(message));
        return NL_OK;
    } catch (...) {
        reader.caught = std::current_exception();
        return NL_STOP;
    }
}

// libnl's own numbers have no errno; its sentences are enough.
std::unexpected<Failure> nl_failure(int error, std::string_view what) {
    return std::unexpected(Failure{0, fmt::format("{}: {}", what, nl_geterror(error))});
}

// Calls one of libnl's receivers and rethrows what the callback caught.
int receive(nl_sock* socket, Reader& reader) {
    nl_socket_modify_cb(socket, NL_CB_VALID, NL_CB_CUSTOM, on_message, &reader);
    const int result = nl_recvmsgs_default(socket);
    if (reader.caught) std::rethrow_exception(std::exchange(reader.caught, nullptr));
    return result;
}

} // namespace

struct Rtnl::State {
    Socket events;
    Socket questions;
    Names names;

    Result<void> connect();
    Result<void> dump();
    Result<bool> drain(); // true when events were lost
    [[nodiscard]] std::vector<std::string> sorted() const;
};

Result<void> Rtnl::State::connect() {
    constexpr std::string_view what = "rtnetlink socket";
    for (auto* socket : {&events, &questions}) {
        socket->reset(nl_socket_alloc());
        if (!*socket) return failure(ENOMEM, what);
        if (const int error = nl_connect(socket->get(), NETLINK_ROUTE); error < 0) return nl_failure(error, what);
        nl_socket_enable_msg_peek(socket->get()); // a link with many virtual functions exceeds any fixed buffer
    }
    nl_socket_disable_seq_check(events.get());
    if (const int error = nl_socket_set_buffer_size(events.get(), receive_bytes, 0); error < 0)
        return nl_failure(error, what);
    if (const int error = nl_socket_set_nonblocking(events.get()); error < 0) return nl_failure(error, what);
    if (const int error = nl_socket_add_membership(events.get(), RTNLGRP_LINK); error < 0)
        return nl_failure(error, what);
    return dump();
}

Result<void> Rtnl::State::dump() {
    constexpr std::string_view what = "rtnetlink: list of links";
    for (int attempt = 0; attempt < dump_attempts; ++attempt) {
        ifinfomsg all{};
        Reader reader;
        int error = nl_send_simple(questions.get(), RTM_GETLINK, NLM_F_DUMP, &all, sizeof all);
        if (error >= 0) error = receive(questions.get(), reader);
        if (error >= 0) {
            names = std::move(reader.names);
            return {};
        }
        if (error != -NLE_DUMP_INTR) return nl_failure(error, what);
    }
    return failure(EINTR, what); // links come and go faster than they can be listed
}

Result<bool> Rtnl::State::drain() {
    Reader reader{.names = std::move(names), .caught = {}};
    bool lost = false;
    int error = 0;
    while ((error = receive(events.get(), reader)) >= 0 || error == -NLE_NOMEM || error == -NLE_INTR)
        lost |= error == -NLE_NOMEM; // ENOBUFS, in libnl's words
    names = std::move(reader.names);
    if (error != -NLE_AGAIN) return nl_failure(error, "rtnetlink: events");
    return lost;
}

std::vector<std::string> Rtnl::State::sorted() const {
    std::vector<std::string> result;
    result.reserve(names.size());
    for (const auto& [index, name] : names) result.push_back(name);
    std::ranges::sort(result);
    return result;
}

Rtnl::Rtnl(std::unique_ptr<State> state) : state_(std::move(state)) {}
Rtnl::Rtnl(Rtnl&&) noexcept = default;
Rtnl& Rtnl::operator=(Rtnl&&) noexcept = default;
Rtnl::~Rtnl() = default;

Result<Rtnl> Rtnl::open() {
    auto state = std::make_unique<State>();
    if (auto connected = state->connect(); !connected) return std::unexpected(connected.error());
    return Rtnl(std::move(state));
}

int Rtnl::fd() const { return nl_socket_get_fd(state_->events.get()); }

Result<bool> Rtnl::refresh() {
    const auto before = state_->sorted();
    const auto lost = state_->drain();
    if (!lost) return std::unexpected(lost.error());
    if (*lost)
        if (auto listed = state_->dump(); !listed) return std::unexpected(listed.error());
    return state_->sorted() != before;
}

std::vector<std::string> Rtnl::links() const { return state_->sorted(); }

} // namespace ctcached
