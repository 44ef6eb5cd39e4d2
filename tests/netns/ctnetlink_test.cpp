// Conntrack's counters and the flush of a zone against the running kernel, each case in a network namespace of its own.
//
// Flows are real: UDP over the loopback device, whose zones the rules of output() choose by port. No one listens, so
// every packet to a new port is one entry. The case "record" is skipped unless it is asked for: it writes what this
// kernel answers into the folder $CTCACHED_RECORD, for tests/unit/ctnetlink_test.cpp:
//
//     CTCACHED_RECORD=tests/data/ctnetlink build/release/tests/netns_ctnetlink_test --no-skip --test-case=record
#define DOCTEST_CONFIG_IMPLEMENT
#include "kernel/ctnetlink.hpp"
#include "kernel/system.hpp"

#include <arpa/inet.h>
#include <doctest/doctest.h>
#include <linux/netfilter/nfnetlink.h>
#include <linux/netfilter/nfnetlink_conntrack.h>
#include <linux/netlink.h>
#include <netinet/in.h>
#include <sched.h>
#include <sys/socket.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <memory>
#include <thread>

using namespace ctcached;

namespace {

void run(const std::string& command, const std::string& input = {}) {
    const std::unique_ptr<FILE, int (*)(FILE*)> pipe(::popen(command.c_str(), "w"), ::pclose);
    REQUIRE(pipe);
    std::fputs(input.c_str(), pipe.get());
}

// Port p is of zone p / 1000 up to 3, in three ways; all others are of none.
constexpr int original_port = 1000;
constexpr int both_port = 2000;
constexpr int reply_port = 3000;
constexpr int no_zone_port = 4000;
constexpr auto rules = "table inet t {\n"
                       "  chain output {\n"
                       "    type filter hook output priority raw; policy accept;\n"
                       "    udp dport 1000-1999 ct original zone set 1\n"
                       "    udp dport 2000-2999 ct zone set 2\n"
                       "    udp dport 3000-3999 ct reply zone set 3\n"
                       "  }\n"
                       "}\n";

struct Namespace {
    Namespace() {
        REQUIRE(::unshare(CLONE_NEWNET) == 0);
        run("ip link set lo up");
        run("nft -f -", rules);
    }
};

Ctnetlink open_conntrack() {
    auto conntrack = Ctnetlink::open();
    REQUIRE_MESSAGE(conntrack, conntrack.error().text);
    return std::move(*conntrack);
}

std::uint64_t count(Ctnetlink& conntrack) {
    const auto totals = conntrack.totals();
    REQUIRE_MESSAGE(totals, totals.error().text);
    return totals->count;
}

std::uint64_t flush(Ctnetlink& conntrack, std::uint16_t zone) {
    const auto flushed = conntrack.flush_zone(zone);
    REQUIRE_MESSAGE(flushed, flushed.error().text);
    return *flushed;
}

template <typename Address>
void send_to(int fd, const Address& address) {
    while (::sendto(fd, "x", 1, 0, reinterpret_cast<const sockaddr*>(&address), sizeof address) < 0)
        REQUIRE(errno == ECONNREFUSED); // an earlier packet's answer
}

// `hosts` times `ports` new flows over IPv4, from one port.
void open_flows(int first_port, int ports, int hosts = 1) {
    const Fd fd(::socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
    REQUIRE(fd);
    for (int host = 1; host <= hosts; ++host)
        for (int port = first_port; port < first_port + ports; ++port) {
            sockaddr_in address{};
            address.sin_family = AF_INET;
            address.sin_port = htons(static_cast<std::uint16_t>(port));
            address.sin_addr.s_addr = htonl(0x7f000000U + static_cast<std::uint32_t>(host));
            send_to(fd.get(), address);
        }
}

void open_flows6(int first_port, int ports) {
    const Fd fd(::socket(AF_INET6, SOCK_DGRAM | SOCK_CLOEXEC, 0));
    REQUIRE(fd);
    for (int port = first_port; port < first_port + ports; ++port) {
        sockaddr_in6 address{};
        address.sin6_family = AF_INET6;
        address.sin6_port = htons(static_cast<std::uint16_t>(port));
        address.sin6_addr = in6addr_loopback;
        send_to(fd.get(), address);
    }
}

// The kernel's bytes: the answer to one request, to the end of it.
std::string capture(int type, std::uint16_t flags) {
    struct {
        nlmsghdr header;
        nfgenmsg generic;
    } request{};
    request.header.nlmsg_len = sizeof request;
    request.header.nlmsg_type = static_cast<std::uint16_t>(NFNL_SUBSYS_CTNETLINK << 8 | type);
    request.header.nlmsg_flags = static_cast<std::uint16_t>(NLM_F_REQUEST | flags);
    const Fd fd(::socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_NETFILTER));
    REQUIRE(::send(fd.get(), &request, sizeof request, 0) == sizeof request);
    std::string bytes;
    std::array<char, 65'536> part{};
    for (ssize_t length = 0; (length = ::recv(fd.get(), part.data(), part.size(), MSG_DONTWAIT)) > 0;)
        bytes.append(part.data(), static_cast<std::size_t>(length));
    return bytes;
}

} // namespace

TEST_CASE_FIXTURE(Namespace, "totals are those of the namespace") {
    auto conntrack = open_conntrack();
    CHECK(count(conntrack) == 0);
    open_flows(no_zone_port, 10);
    open_flows(original_port, 5);
    CHECK(count(conntrack) == 15);
    CHECK(conntrack.totals()->max == System().conntrack_sysctl("max"));
}

TEST_CASE_FIXTURE(Namespace, "counters are summed over the CPUs") {
    auto conntrack = open_conntrack();
    const auto stats = conntrack.cpu_stats();
    REQUIRE_MESSAGE(stats, stats.error().text);
    for (const auto* name : {"found", "invalid", "insert", "insert_failed", "drop", "early_drop", "error",
                             "search_restart", "clash_resolve", "chain_toolong"})
        CHECK_MESSAGE(stats->contains(name), name);
    // A packet with a bad checksum would do; a TCP segment that belongs to nothing and opens nothing is easier.
    const auto before = stats->at("invalid");
    const Fd fd(::socket(AF_INET, SOCK_RAW | SOCK_CLOEXEC, IPPROTO_TCP));
    REQUIRE(fd);
    std::array<char, 20> segment{}; // no flags at all, a header of no length
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    REQUIRE(::sendto(fd.get(), segment.data(), segment.size(), 0, reinterpret_cast<const sockaddr*>(&address),
                     sizeof address) == 20);
    CHECK(conntrack.cpu_stats()->at("invalid") > before);
}

TEST_CASE_FIXTURE(Namespace, "a flush takes the flows of one zone, of any direction and family, and no others") {
    auto conntrack = open_conntrack();
    for (const int port : {original_port, both_port, reply_port, no_zone_port}) {
        open_flows(port, 7);
        open_flows6(port, 3);
    }
    CHECK(count(conntrack) == 40);
    for (const std::uint16_t zone : {1, 2, 3}) {
        const auto before = count(conntrack);
        CHECK(flush(conntrack, zone) == 10);
        CHECK(count(conntrack) == before - 10);
        CHECK(flush(conntrack, zone) == 0);
    }
    CHECK(flush(conntrack, 4000) == 0);
    CHECK(count(conntrack) == 10);
    CHECK(conntrack.flush_zone(0).error().error == EINVAL);
    CHECK(count(conntrack) == 10);
}

TEST_CASE_FIXTURE(Namespace, "equal tuples of another zone stay") {
    auto conntrack = open_conntrack();
    const Fd fd(::socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_port = htons(both_port);
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    send_to(fd.get(), address);
    run("nft flush ruleset");
    run("nft -f -", "table inet t { chain output { type filter hook output priority raw; ct zone set 12; }; }");
    send_to(fd.get(), address);
    CHECK(count(conntrack) == 2);
    CHECK(flush(conntrack, 2) == 1);
    CHECK(count(conntrack) == 1);
    CHECK(flush(conntrack, 12) == 1);
}

TEST_CASE_FIXTURE(Namespace, "a flush of many flows goes on while its dump does") {
    auto conntrack = open_conntrack();
    open_flows(original_port, 1000, 20);
    open_flows(both_port, 1000, 20);
    CHECK(count(conntrack) == 40'000);
    const auto start = std::chrono::steady_clock::now();
    CHECK(flush(conntrack, 1) == 20'000);
    const auto seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    MESSAGE("20,000 of 40,000 flows in ", seconds * 1000, " ms");
    CHECK(count(conntrack) == 20'000);
}

TEST_CASE_FIXTURE(Namespace, "entries that vanish meanwhile are no failure, and counted once") {
    open_flows(original_port, 1000, 20);
    std::array<Ctnetlink, 2> sockets{open_conntrack(), open_conntrack()};
    std::array<Result<std::uint64_t>, 2> flushed;
    std::array<std::thread, 2> threads;
    for (std::size_t i = 0; i < 2; ++i) threads[i] = std::thread([&, i] { flushed[i] = sockets[i].flush_zone(1); });
    for (auto& thread : threads) thread.join();
    REQUIRE_MESSAGE(flushed[0], flushed[0].error().text);
    REQUIRE_MESSAGE(flushed[1], flushed[1].error().text);
    CHECK(*flushed[0] + *flushed[1] == 20'000);
    CHECK(count(sockets[0]) == 0);
}

TEST_CASE_FIXTURE(Namespace, "sizes are read-only in any namespace but the first, timeouts are not") {
    const System system;
    const auto facts = system.sizing_facts();
    REQUIRE_MESSAGE(facts, facts.error().text);
    CHECK(!facts->writable);
    CHECK(facts->memory_bytes > 0);
    CHECK(facts->object_bytes >= 200);
    CHECK(facts->max > 0);
    CHECK(facts->buckets > 0);
    CHECK(system.set_conntrack_sysctl("max", facts->max).error().error == EACCES);
    CHECK(system.set_conntrack_sysctl("buckets", facts->buckets).error().error == EACCES);
    for (const auto* name : {"acct", "udp_timeout", "tcp_timeout_established"}) {
        REQUIRE(system.set_conntrack_sysctl(name, 1));
        CHECK(system.conntrack_sysctl(name) == 1);
    }
}

TEST_CASE_FIXTURE(Namespace, "record" * doctest::skip()) {
    const char* folder = std::getenv("CTCACHED_RECORD"); // NOLINT(concurrency-mt-unsafe): one thread
    REQUIRE(folder);
    for (const int port : {original_port, both_port, reply_port, no_zone_port}) {
        open_flows(port, 2);
        open_flows6(port, 1);
    }
    struct Answer {
        const char* name;
        int type;
        std::uint16_t flags;
    };
    for (const auto& [name, type, flags] :
         {Answer{"totals", IPCTNL_MSG_CT_GET_STATS, NLM_F_ACK},
          Answer{"cpu_stats", IPCTNL_MSG_CT_GET_STATS_CPU, NLM_F_DUMP}, Answer{"dump", IPCTNL_MSG_CT_GET, NLM_F_DUMP},
          Answer{"refused", IPCTNL_MSG_CT_NEW, NLM_F_ACK}}) {
        const auto bytes = capture(type, flags);
        REQUIRE(!bytes.empty());
        std::ofstream(std::string(folder) + "/" + name + ".bin", std::ios::binary) << bytes;
    }
}

int main(int argc, char** argv) {
    if (::geteuid() != 0 || ::unshare(CLONE_NEWNET) != 0) {
        std::puts("skipped: needs root");
        return 77;
    }
    return doctest::Context(argc, argv).run();
}
