// The nftables socket.
//
// The kernel answers inside sendmsg(): when that returns, the acknowledgement and every error of a batch, or the first
// part of a dump, lie in the receive queue, and reading one part of a dump makes the next (net/netlink/af_netlink.c,
// netlink_recvmsg). So nothing here ever waits: an empty queue is the end, and an answer that is not there is an error.
// An adopted socket may hold the answers to its former user, so the queue is emptied before every request.
//
// A batch is one datagram and one transaction: a process that is killed while it sends either has sent all of it or
// nothing, and there is nothing to clean up after it.
//
// A dump is consistent when the ruleset's generation is the same before and behind it, no part of it has
// NLM_F_DUMP_INTR, and no element came twice. Otherwise it is repeated, a bounded number of times.
#include "kernel/nft.hpp"

#include "kernel/netlink.hpp"

#include <fmt/format.h>
#include <linux/netfilter/nfnetlink.h>
#include <linux/netlink.h>
#include <sys/socket.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstring>
#include <memory>
#include <tuple>
#include <utility>

namespace ctcached {

namespace {

constexpr const char* who = "nftables socket";
constexpr std::size_t receive_bytes = 64UZ * 1024; // the kernel makes dump parts of 32 KiB at most (netlink_dump)
constexpr int attempts = 10;                       // of a dump that the ruleset moves under
constexpr int queue_bytes = 4 * 1024 * 1024;       // for the errors of a batch where every message fails

// Grows a buffer: by force where we may, else up to the system's limit.
void grow(int fd, int forced, int plain, int bytes) {
    if (::setsockopt(fd, SOL_SOCKET, forced, &bytes, sizeof bytes) < 0)
        (void)::setsockopt(fd, SOL_SOCKET, plain, &bytes, sizeof bytes); // send or receive reports what that costs
}

int option(int fd, int name) {
    int value = -1;
    socklen_t length = sizeof value;
    return ::getsockopt(fd, SOL_SOCKET, name, &value, &length) < 0 ? -1 : value;
}

// One datagram; empty when there is none.
Result<std::span<const char>> receive(int fd, std::span<char> buffer) {
    auto datagram = receive_datagram(fd, buffer, who);
    if (!datagram && datagram.error().error == EAGAIN) return std::span<const char>{};
    return datagram;
}

Result<void> send(int fd, const std::string& bytes) {
    constexpr int slack = 4096; // the kernel keeps some of the buffer for itself (netlink_sendmsg)
    if (auto needed = static_cast<int>(bytes.size()) + slack; option(fd, SO_SNDBUF) < needed)
        grow(fd, SO_SNDBUFFORCE, SO_SNDBUF, needed);
    return send_datagram(fd, bytes, who);
}

struct Receiver {
    alignas(nlmsghdr) std::array<char, receive_bytes> buffer{};
};

// Reads until the queue is empty; `each` sees every datagram. An error of `each` is kept, the queue is emptied still.
Result<void> drain(int fd, const NftSink& each) {
    auto receiver = std::make_unique<Receiver>();
    Result<void> result;
    while (true) {
        auto datagram = receive(fd, receiver->buffer);
        if (!datagram) {
            if (result) result = std::unexpected(datagram.error());
            if (datagram.error().error == ENOBUFS) continue; // some were lost; the rest is there
            return result;
        }
        if (datagram->empty()) return result;
        if (result) result = each(*datagram);
    }
}

void forget_old_answers(int fd) {
    std::ignore = drain(fd, [](auto) { return Result<void>{}; }); // whatever is wrong with them is not our request's
}

Result<Fd> open_socket() {
    Fd fd(::socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_NETFILTER));
    if (!fd) return failure(errno, "nftables socket: open");
    sockaddr_nl address{};
    address.nl_family = AF_NETLINK;
    if (::bind(fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) < 0)
        return failure(errno, "nftables socket: bind");
    return fd;
}

// Answers of the kernel to `sequence`: what an error or the end of a dump says; nullopt when none came.
struct Answer {
    std::optional<NftReply> end;
    bool data = false;
    bool interrupted = false;
};

std::string because(const NftReply& reply) {
    auto why = reply.text.empty() ? std::string() : reply.text + ": ";
    const char* name = strerrorname_np(reply.error);
    const char* description = strerrordesc_np(reply.error);
    return fmt::format("{}{} ({})", why, description ? description : "error",
                       name ? name : std::to_string(reply.error));
}

} // namespace

Result<NftSocket> NftSocket::open(Fd fd) {
    if (!fd) {
        auto opened = open_socket();
        if (!opened) return std::unexpected(opened.error());
        fd = std::move(*opened);
    } else if (option(fd.get(), SO_DOMAIN) != AF_NETLINK || option(fd.get(), SO_PROTOCOL) != NETLINK_NETFILTER) {
        return failure(EPROTOTYPE, "nftables socket: the descriptor that was handed over is another kind of socket");
    }
    sockaddr_nl address{};
    socklen_t length = sizeof address;
    if (::getsockname(fd.get(), reinterpret_cast<sockaddr*>(&address), &length) < 0)
        return failure(errno, "nftables socket: port");
    const int on = 1;
    // Words for errors, without an echo of the request. An older kernel gives less, and that is enough.
    (void)::setsockopt(fd.get(), SOL_NETLINK, NETLINK_EXT_ACK, &on, sizeof on);
    (void)::setsockopt(fd.get(), SOL_NETLINK, NETLINK_CAP_ACK, &on, sizeof on);
    grow(fd.get(), SO_RCVBUFFORCE, SO_RCVBUF, queue_bytes);
    NftSocket socket(std::move(fd), address.nl_pid);
    if (auto generation = socket.generation(); !generation) {
        auto error = generation.error();
        // nfnetlink answers EINVAL for a subsystem that it neither has nor can load (nfnetlink_rcv_msg).
        if (error.error == EINVAL) return failure(EPROTONOSUPPORT, "nftables: this kernel has no nf_tables");
        return std::unexpected(std::move(error));
    }
    return socket;
}

Result<void> NftSocket::query(NftQuery what, const std::string& set, const NftSink& sink) {
    static constexpr std::array<const char*, 6> names{"generation", "table", "chains", "rules", "sets", "elements"};
    auto name =
        fmt::format("nftables: read {}{}{}", names.at(static_cast<std::size_t>(what)), set.empty() ? "" : " of ", set);
    forget_old_answers(fd_.get());
    const auto sequence = ++sequence_;
    if (auto sent = send(fd_.get(), encode_query(what, sequence, set)); !sent) return sent;
    Answer answer;
    auto read = drain(fd_.get(), [&](std::span<const char> datagram) -> Result<void> {
        auto messages = split_messages(datagram);
        if (!messages) return failure(EBADMSG, name);
        for (const auto& message : *messages) {
            if (message.sequence != sequence) continue;
            answer.interrupted |= (message.flags & NLM_F_DUMP_INTR) != 0;
            if (auto reply = decode_reply(message))
                answer.end = reply;
            else
                answer.data = true;
        }
        return sink(datagram);
    });
    if (answer.end && answer.end->error != 0)
        return std::unexpected(Failure{answer.end->error, name + ": " + because(*answer.end)});
    if (!read) return read;
    if (answer.interrupted) return failure(EINTR, name);
    if (!answer.end && !answer.data) return failure(ENODATA, name);
    return {};
}

Result<std::uint32_t> NftSocket::generation() {
    std::optional<std::uint32_t> generation;
    auto read = query(NftQuery::generation, {}, [&](auto datagram) -> Result<void> {
        generation = decode_generation(datagram);
        return {};
    });
    if (!read) return std::unexpected(read.error());
    if (!generation) return failure(EBADMSG, "nftables: read generation");
    return *generation;
}

Result<std::optional<ObservedTable>> NftSocket::dump() {
    std::optional<ObservedTable> table;
    auto sink = [&](std::span<const char> datagram) { return decode_into(table, datagram); };
    if (auto read = query(NftQuery::table, {}, sink); !read) {
        if (read.error().error == ENOENT) return std::nullopt;
        return std::unexpected(read.error());
    }
    if (!table) return std::nullopt;
    for (auto what : {NftQuery::chains, NftQuery::rules, NftQuery::sets})
        if (auto read = query(what, {}, sink); !read) return std::unexpected(read.error());
    std::vector<std::string> names;
    for (const auto& set : table->ruleset.sets) names.push_back(set.name);
    for (const auto& name : names)
        if (auto read = query(NftQuery::elements, name, sink); !read) return std::unexpected(read.error());
    if (auto sorted = sort(*table); !sorted) return std::unexpected(sorted.error());
    return table;
}

Result<NftSocket::Observation> NftSocket::observe() {
    Failure last;
    for (int attempt = 0; attempt < attempts; ++attempt) {
        auto before = generation();
        if (!before) return std::unexpected(before.error());
        auto table = dump();
        auto after = generation();
        if (!after) return std::unexpected(after.error());
        if (table && *before == *after) return Observation{*after, std::move(*table)};
        // An object that vanished, or a dump that the kernel says is torn: only a move of the ruleset excuses it.
        if (!table && *before == *after && table.error().error != EINTR) return std::unexpected(table.error());
        last = table ? failure(EAGAIN, "nftables: the ruleset moves all the time").error() : table.error();
    }
    return std::unexpected(last);
}

std::expected<void, NftFailure> NftSocket::apply(const std::vector<Change>& changes, std::uint32_t generation) {
    if (changes.empty()) return {};
    forget_old_answers(fd_.get());
    auto batch = encode_batch(changes, generation, ++sequence_);
    sequence_ = batch.last() + 1;
    if (auto sent = send(fd_.get(), batch.bytes); !sent) return std::unexpected(NftFailure{sent.error(), false});
    std::optional<std::pair<std::uint32_t, NftReply>> error; // the first one, with its message
    bool acknowledged = false;
    auto read = drain(fd_.get(), [&](std::span<const char> datagram) -> Result<void> {
        auto messages = split_messages(datagram);
        if (!messages) return failure(EBADMSG, "nftables: answer to a batch");
        for (const auto& message : *messages) {
            auto reply = decode_reply(message);
            if (!reply || message.sequence - batch.first > batch.changes.size() + 1) continue;
            if (reply->error != 0 && !error)
                error.emplace(message.sequence, std::move(*reply));
            else if (reply->error == 0 && message.sequence == batch.last())
                acknowledged = true;
        }
        return {};
    });
    if (error) {
        auto change = batch.change(error->first);
        auto name = change ? name_of(changes[*change]) : std::string("transaction");
        return std::unexpected(NftFailure{{error->second.error, fmt::format("{}: {}", name, because(error->second))},
                                          error->second.error == ERESTART});
    }
    // Without its acknowledgement a batch may or may not be in: whoever asked must look.
    if (!read) return std::unexpected(NftFailure{read.error(), true});
    if (!acknowledged) return std::unexpected(NftFailure{failure(ENODATA, "nftables: transaction").error(), true});
    return {};
}

Result<std::vector<Element>> NftSocket::elements(const std::string& set) {
    std::optional<ObservedTable> table;
    table.emplace().ruleset.sets.emplace_back().name = set;
    auto sink = [&](std::span<const char> datagram) { return decode_into(table, datagram); };
    for (int attempt = 1;; ++attempt) {
        table->ruleset.sets.front().elements.clear();
        auto read = query(NftQuery::elements, set, sink);
        if (read) read = sort(*table);
        if (read) return std::move(table->ruleset.sets.front().elements);
        if (read.error().error != EINTR || attempt == attempts) return std::unexpected(read.error());
    }
}

bool NftSocket::probe(AddTable flags) {
    forget_old_answers(fd_.get());
    const auto sequence = ++sequence_;
    auto name = fmt::format("{}-probe-{}", table_name, port_);
    if (!send(fd_.get(), encode_table_probe(name, flags, sequence))) return false;
    ++sequence_;
    bool accepted = false;
    auto read = drain(fd_.get(), [&](std::span<const char> datagram) -> Result<void> {
        for (const auto& message : split_messages(datagram).value_or(std::vector<NftMessage>{}))
            if (auto reply = decode_reply(message); reply && message.sequence == sequence + 1)
                accepted = reply->error == 0;
        return {};
    });
    return read && accepted;
}

bool NftSocket::supports_owner() { return probe({.owner = true}); }
bool NftSocket::supports_persist() { return probe({.owner = true, .persist = true}); }

// --- the monitor ---

Result<NftMonitor> NftMonitor::open() {
    auto fd = open_socket();
    if (!fd) return std::unexpected(fd.error());
    const int group = NFNLGRP_NFTABLES;
    if (::setsockopt(fd->get(), SOL_NETLINK, NETLINK_ADD_MEMBERSHIP, &group, sizeof group) < 0)
        return failure(errno, "nftables monitor: join the group");
    grow(fd->get(), SO_RCVBUFFORCE, SO_RCVBUF, queue_bytes);
    return NftMonitor(std::move(*fd));
}

Result<NftMonitor::Batch> NftMonitor::read(std::uint32_t own_port) {
    Batch batch;
    auto read = drain(fd_.get(), [&](std::span<const char> datagram) -> Result<void> {
        batch.lost |= !log_.take(datagram, own_port);
        return {};
    });
    if (!read && read.error().error != ENOBUFS) return std::unexpected(read.error());
    batch.lost |= !read;
    batch.events = log_.finished(batch.lost);
    return batch;
}

} // namespace ctcached
