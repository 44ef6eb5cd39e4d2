// Conntrack over netlink.
//
// Counters are two small questions. The flush of a zone is a dump of the table on a socket of its own, whose entries of
// that zone are deleted batch by batch while the dump goes on: the kernel finds its place again when the entry where it
// stopped is gone (ctnetlink_dump_table), so memory stays bounded whatever the size of the table. The dump names the
// zone, which kernels since 6.8 filter by and older ones ignore; what arrives is checked in either case.
//
// Where an entry's zone stands depends on its direction (ctnetlink_dump_zone_id): a zone of both directions in the
// entry itself, a zone of one direction in the tuple of that direction. The request to delete it repeats the tuple as
// it came, zone included, and the entry's id, so that neither an equal tuple of another zone nor a new flow with the
// same tuple is hit. An entry that is gone by then is as good as deleted, but not counted.
//
// The kernel answers within sendmsg() and makes the next part of a dump while one is read (net/netlink/af_netlink.c),
// so an empty queue before the end means that the answer was lost, and nothing here waits.

#include "kernel/ctnetlink.hpp"

#include "kernel/netlink.hpp"
#include "kernel/nft_message.hpp"

#include <endian.h>
#include <fmt/format.h>
#include <libmnl/libmnl.h>
#include <linux/netfilter/nfnetlink.h>
#include <linux/netfilter/nfnetlink_conntrack.h>
#include <linux/netlink.h>
#include <sys/socket.h>

#include <array>
#include <cerrno>
#include <cstring>
#include <memory>
#include <utility>

namespace ctcached {

namespace {

constexpr const char* who = "conntrack socket";
constexpr std::size_t receive_bytes = 65'536; // the kernel makes dump parts of 32 KiB at most (netlink_dump)
constexpr std::size_t batch_size = 128;       // acknowledgements that fit into any receive buffer
constexpr int dump_attempts = 3;

using Buffer = std::array<char, receive_bytes>;

constexpr std::uint16_t message_type(int type) { return static_cast<std::uint16_t>(NFNL_SUBSYS_CTNETLINK << 8 | type); }

constexpr std::pair<std::uint16_t, const char*> cpu_counters[] = {
    {CTA_STATS_FOUND, "found"},
    {CTA_STATS_INVALID, "invalid"},
    {CTA_STATS_INSERT, "insert"},
    {CTA_STATS_INSERT_FAILED, "insert_failed"},
    {CTA_STATS_DROP, "drop"},
    {CTA_STATS_EARLY_DROP, "early_drop"},
    {CTA_STATS_ERROR, "error"},
    {CTA_STATS_SEARCH_RESTART, "search_restart"},
    {CTA_STATS_CLASH_RESOLVE, "clash_resolve"},
    {CTA_STATS_CHAIN_TOOLONG, "chain_toolong"},
};

std::unexpected<Failure> malformed(std::string_view what) { return failure(EBADMSG, what); }

std::string encode_request(int type, std::uint16_t flags, std::uint32_t sequence, std::uint8_t family = AF_UNSPEC) {
    std::string bytes(MNL_ALIGN(sizeof(nlmsghdr)) + MNL_ALIGN(sizeof(nfgenmsg)), '\0');
    auto* header = mnl_nlmsg_put_header(bytes.data());
    header->nlmsg_type = message_type(type);
    header->nlmsg_flags = static_cast<std::uint16_t>(NLM_F_REQUEST | flags);
    header->nlmsg_seq = sequence;
    const nfgenmsg generic{.nfgen_family = family, .version = NFNETLINK_V0, .res_id = 0};
    std::memcpy(mnl_nlmsg_put_extra_header(header, sizeof generic), &generic, sizeof generic);
    return bytes;
}

void put(std::string& request, std::uint16_t type, std::string_view payload) {
    const auto length = request.size();
    request.resize(length + MNL_ALIGN(sizeof(nlattr)) + MNL_ALIGN(payload.size()));
    mnl_attr_put(reinterpret_cast<nlmsghdr*>(request.data()), type, payload.size(), payload.data());
}

void put_zone(std::string& request, std::uint16_t zone) {
    const auto wire = htobe16(zone);
    put(request, CTA_ZONE, {reinterpret_cast<const char*>(&wire), sizeof wire});
}

// A request that deletes this very entry.
std::string encode_delete(const ZoneFlow& flow, std::uint16_t zone, std::uint32_t sequence) {
    auto request = encode_request(IPCTNL_MSG_CT_DELETE, NLM_F_ACK, sequence, flow.family);
    put(request, static_cast<std::uint16_t>((flow.by_reply ? CTA_TUPLE_REPLY : CTA_TUPLE_ORIG) | NLA_F_NESTED),
        flow.tuple);
    if (flow.both) put_zone(request, zone);
    put(request, CTA_ID, flow.id);
    return request;
}

bool is_zone(std::optional<std::string_view> payload, std::uint16_t zone) {
    const auto wire = htobe16(zone);
    return payload && *payload == std::string_view(reinterpret_cast<const char*>(&wire), sizeof wire);
}

// One entry, when it is of the zone.
std::optional<ZoneFlow> flow_of_zone(const NftMessage& message, std::uint16_t zone) {
    const auto& entry = message.attributes;
    const bool both = is_zone(entry.payload(CTA_ZONE), zone);
    const bool by_original = both || is_zone(entry.nested(CTA_TUPLE_ORIG).payload(CTA_TUPLE_ZONE), zone);
    const bool by_reply = !by_original && is_zone(entry.nested(CTA_TUPLE_REPLY).payload(CTA_TUPLE_ZONE), zone);
    const auto tuple = entry.payload(by_reply ? CTA_TUPLE_REPLY : CTA_TUPLE_ORIG);
    const auto id = entry.payload(CTA_ID);
    if ((!by_original && !by_reply) || !tuple || !id) return std::nullopt;
    return ZoneFlow{message.family, both, by_reply, std::string(*tuple), std::string(*id)};
}

Result<Fd> open_socket() {
    Fd fd(::socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_NETFILTER));
    if (!fd) return failure(errno, "conntrack socket: open");
    sockaddr_nl address{};
    address.nl_family = AF_NETLINK;
    if (::bind(fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) < 0)
        return failure(errno, "conntrack socket: bind");
    const int on = 1;
    // Errors without an echo of the request; a kernel that cannot do that sends longer ones.
    (void)::setsockopt(fd.get(), SOL_NETLINK, NETLINK_CAP_ACK, &on, sizeof on);
    return fd;
}

// The answers to a former request that failed half-way are not those to the next one.
void forget_old_answers(int fd, Buffer& buffer) {
    while (true) {
        const auto datagram = receive_datagram(fd, buffer, who);
        // ENOBUFS: more may lie behind what was lost.
        if (!datagram && datagram.error().error != ENOBUFS) return;
    }
}

// Sends one datagram of requests and reads until `replies` of them are answered for good; `each` sees every datagram
// before its answers count, `verdict` every answer.
template <typename Each, typename Verdict>
Result<void> converse(int fd, std::string_view requests, std::size_t replies, Each each, Verdict verdict) {
    const auto buffer = std::make_unique<Buffer>();
    forget_old_answers(fd, *buffer);
    if (auto sent = send_datagram(fd, requests, who); !sent) return sent;
    while (replies > 0) {
        const auto datagram = receive_datagram(fd, *buffer, who);
        if (!datagram) return std::unexpected(datagram.error());
        const auto messages = split_messages(*datagram);
        if (!messages) return malformed("conntrack socket: reply");
        if (auto taken = each(*datagram, *messages); !taken) return taken;
        for (const auto& message : *messages)
            if (const auto reply = decode_reply(message)) {
                if (auto accepted = verdict(*reply); !accepted) return accepted;
                if (--replies == 0) break;
            }
    }
    return {};
}

// One question whose answer is small: all its datagrams in one.
Result<std::string> ask(int fd, std::string_view request, std::string_view what) {
    std::string replies;
    const auto collect = [&](std::span<const char> datagram, const auto&) -> Result<void> {
        replies.append(datagram.data(), datagram.size());
        replies.resize(NLMSG_ALIGN(replies.size()));
        return {};
    };
    const auto verdict = [&](const NftReply& reply) -> Result<void> {
        if (reply.error != 0) return failure(reply.error, what);
        return {};
    };
    if (auto done = converse(fd, request, 1, collect, verdict); !done) return std::unexpected(done.error());
    return replies;
}

// Calls `visit` with the attributes of each message of one type; an error reply among them is a failure.
template <typename Visit>
Result<void> for_each_message(std::span<const char> replies, int type, std::string_view what, Visit visit) {
    const auto messages = split_messages(replies);
    if (!messages) return malformed(what);
    for (const auto& message : *messages) {
        if (const auto reply = decode_reply(message)) {
            if (reply->error != 0) return failure(reply->error, what);
            continue;
        }
        if (message.type != message_type(type) || message.attributes.malformed()) return malformed(what);
        visit(message);
    }
    return {};
}

} // namespace

Result<ConntrackTotals> decode_totals(std::span<const char> replies) {
    constexpr std::string_view what = "conntrack totals";
    std::optional<std::uint32_t> count;
    std::optional<std::uint32_t> max;
    const auto read = for_each_message(replies, IPCTNL_MSG_CT_GET_STATS, what, [&](const NftMessage& message) {
        count = message.attributes.u32(CTA_STATS_GLOBAL_ENTRIES);
        max = message.attributes.u32(CTA_STATS_GLOBAL_MAX_ENTRIES);
    });
    if (!read) return std::unexpected(read.error());
    if (!count) return malformed(what);
    return ConntrackTotals{.count = *count, .max = max.value_or(0)};
}

Result<std::map<std::string, std::uint64_t>> decode_cpu_stats(std::span<const char> replies) {
    std::map<std::string, std::uint64_t> sums;
    const auto read =
        for_each_message(replies, IPCTNL_MSG_CT_GET_STATS_CPU, "conntrack counters", [&](const NftMessage& message) {
            for (const auto& [type, name] : cpu_counters)
                if (const auto value = message.attributes.u32(type)) sums[name] += *value;
        });
    if (!read) return std::unexpected(read.error());
    if (sums.empty()) return malformed("conntrack counters");
    return sums;
}

Result<std::vector<ZoneFlow>> decode_zone_flows(std::span<const char> replies, std::uint16_t zone) {
    std::vector<ZoneFlow> flows;
    const auto read = for_each_message(replies, IPCTNL_MSG_CT_NEW, "conntrack dump", [&](const NftMessage& message) {
        if (auto flow = flow_of_zone(message, zone)) flows.push_back(std::move(*flow));
    });
    if (!read) return std::unexpected(read.error());
    return flows;
}

Result<Ctnetlink> Ctnetlink::open() {
    auto fd = open_socket();
    if (!fd) return std::unexpected(fd.error());
    Ctnetlink conntrack(std::move(*fd));
    if (const auto totals = conntrack.totals(); !totals) {
        // nfnetlink's answer for a subsystem that the kernel neither has nor can load (nfnetlink_rcv_msg).
        if (totals.error().error == EINVAL)
            return failure(EPROTONOSUPPORT, "conntrack: this kernel has no nf_conntrack_netlink");
        return std::unexpected(totals.error());
    }
    return conntrack;
}

Result<ConntrackTotals> Ctnetlink::totals() {
    const auto request = encode_request(IPCTNL_MSG_CT_GET_STATS, NLM_F_ACK, ++sequence_);
    const auto replies = ask(fd_.get(), request, "conntrack totals");
    if (!replies) return std::unexpected(replies.error());
    return decode_totals(*replies);
}

Result<std::map<std::string, std::uint64_t>> Ctnetlink::cpu_stats() {
    const auto request = encode_request(IPCTNL_MSG_CT_GET_STATS_CPU, NLM_F_DUMP, ++sequence_);
    const auto replies = ask(fd_.get(), request, "conntrack counters");
    if (!replies) return std::unexpected(replies.error());
    return decode_cpu_stats(*replies);
}

Result<std::uint64_t> Ctnetlink::delete_flows(std::span<const ZoneFlow> flows, std::uint16_t zone) {
    std::uint64_t deleted = 0;
    while (!flows.empty()) {
        const auto batch = flows.first(std::min(flows.size(), batch_size));
        flows = flows.subspan(batch.size());
        std::string requests;
        for (const auto& flow : batch) requests += encode_delete(flow, zone, ++sequence_);
        std::optional<Failure> refused; // the others of the batch are read all the same
        const auto done = converse(
            fd_.get(), requests, batch.size(), [](auto, const auto&) { return Result<void>{}; },
            [&](const NftReply& reply) -> Result<void> {
                if (reply.error == 0)
                    ++deleted;
                else if (reply.error != ENOENT)
                    refused = failure(reply.error, "conntrack: delete a flow").error();
                return {};
            });
        if (!done) return std::unexpected(done.error());
        if (refused) return std::unexpected(*refused);
    }
    return deleted;
}

Result<std::uint64_t> Ctnetlink::flush_zone(std::uint16_t zone) {
    const auto what = fmt::format("conntrack: flush zone {}", zone);
    if (zone == 0) return failure(EINVAL, what); // the zone of everything that is not ours
    const auto fd = open_socket();
    if (!fd) return std::unexpected(fd.error());
    std::uint64_t deleted = 0;
    for (int attempt = 0; attempt < dump_attempts; ++attempt) {
        bool interrupted = false;
        auto request = encode_request(IPCTNL_MSG_CT_GET, NLM_F_DUMP, ++sequence_);
        put_zone(request, zone);
        const auto take = [&](std::span<const char> datagram, const std::vector<NftMessage>& messages) -> Result<void> {
            for (const auto& message : messages) interrupted |= (message.flags & NLM_F_DUMP_INTR) != 0;
            const auto flows = decode_zone_flows(datagram, zone);
            if (!flows) return std::unexpected(flows.error());
            const auto gone = delete_flows(*flows, zone);
            if (!gone) return std::unexpected(gone.error());
            deleted += *gone;
            return {};
        };
        const auto verdict = [&](const NftReply& reply) -> Result<void> {
            if (reply.error == EINTR)
                interrupted = true;
            else if (reply.error != 0)
                return failure(reply.error, what);
            return {};
        };
        if (auto done = converse(fd->get(), request, 1, take, verdict); !done) return std::unexpected(done.error());
        if (!interrupted) return deleted;
    }
    return failure(EINTR, what);
}

} // namespace ctcached
