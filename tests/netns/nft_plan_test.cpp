// What the planner makes is what the kernel keeps: policy -> ruleset -> difference -> transaction -> observation, and
// then there is no difference left. Each case in a network namespace of its own.
#define DOCTEST_CONFIG_IMPLEMENT
#include "kernel/nft.hpp"
#include "plan/compile.hpp"

#include <doctest/doctest.h>
#include <sched.h>
#include <unistd.h>

#include <cstdio>
#include <string>

using namespace ctcached;

namespace {

struct Namespace {
    Namespace() { REQUIRE(::unshare(CLONE_NEWNET) == 0); }
};

Ruleset plan(const std::string& zones) {
    Diagnostics diagnostics;
    const Source source{"test", "version: 1\nzones:\n" + zones};
    auto compiled = compile({&source, 1}, {}, diagnostics);
    for (const auto& entry : diagnostics.entries)
        if (entry.severity == Severity::error) FAIL(diagnostics.to_text(entry));
    return std::move(compiled.ruleset);
}

// Brings the kernel to `ruleset`; how many changes that took.
std::size_t reach(NftSocket& socket, const Ruleset& ruleset) {
    auto before = socket.observe();
    REQUIRE_MESSAGE(before, before.error().text);
    const AddTable flags{.owner = true};
    auto changes = diff(ruleset, flags, before->table);
    auto done = socket.apply(changes, before->generation);
    REQUIRE_MESSAGE(done, done.error().failure.text);
    auto after = socket.observe();
    REQUIRE_MESSAGE(after, after.error().text);
    for (const auto& line : describe(diff(ruleset, flags, after->table))) FAIL_CHECK(line);
    for (const auto& set : after->table->ruleset.sets) CHECK_MESSAGE(set.foreign.empty(), set.foreign);
    return changes.size();
}

std::string listing() {
    // It cannot be loaded again: nft 1.0.6 has no type for the raw payload that quotes another packet.
    FILE* pipe = ::popen("exec 2>&1; nft list table inet ctcached", "r");
    REQUIRE(pipe != nullptr);
    std::string text;
    for (int c = 0; (c = std::fgetc(pipe)) != EOF;) text.push_back(static_cast<char>(c));
    const int status = ::pclose(pipe);
    CHECK_MESSAGE(status == 0, text);
    return text;
}

const std::string any_interface_and_more = "  - { name: a, match: [{ interfaces: ['*'], protocol: tcp }] }\n";
const std::string shapes[]{
    any_interface_and_more,
    "  - { name: a, match: [{ protocol: tcp, ports: [80, 443] }] }\n",
    "  - { name: a, match: [{ protocol: tcp, ports: [80, 8000-8100, 65535] }, { protocol: udp, ports: [1-65535] }] }\n",
    "  - { name: a, match: [{ protocol: [tcp, udp, icmp, 47] }] }\n",
    "  - { name: a, match: [{ subnets: [10.20.0.0/16, '2001:db8::/32'] }] }\n",
    "  - { name: a, match: [{ source: [0.0.0.0/0] }] }\n  - { name: b, match: [{ source: ['::/0'] }] }\n",
    "  - { name: a, match: [{ source: [255.0.0.0/8, 0.0.0.0/8, 10.0.0.1, 10.0.0.2/31, 10.1.0.0/16] }] }\n",
    "  - { name: a, match: [{ destination: ['ffff::/16', '::/16', '2001:db8::1'] }] }\n",
    "  - { name: a, match: [{ source: [10.0.0.0/24], destination: [10.1.0.0/16], protocol: tcp, ports: [22] }] }\n",
    "  - { name: a, match: [{ interfaces: [lan0, wan0] }] }\n",
    "  - { name: a, match: [{ interfaces: [lan0, 'vlan*', 'ppp*'] }] }\n",
    "  - { name: a, match: [{ interfaces: [lan0, 'vlan*'], protocol: udp, source: ['2001:db8::/48', 10.0.0.0/8] }] }\n",
    "  - { name: a, match: [{ mark: 5 }] }\n",
    "  - { name: a, match: [{ mark: 0x10/0xf0 }, { mark: 0x10/0xff, protocol: tcp, ports: [8000-8100] }] }\n",
    "  - { name: a, direction: both, match: [{ mark: 5/0xff }] }\n",
    "  - { name: a, match: [{ protocol: tcp, ports: [80] }] }\n  - { name: b, match: [{ source: [10.0.0.0/8] }] }\n"
    "  - { name: c, match: [{ protocol: tcp, ports: [1-1000] }] }\n  - { name: d, match: [{ interfaces: ['*'] }] }\n",
};

} // namespace

TEST_CASE_FIXTURE(Namespace, "every shape of match is kept as it was planned, and reached from every other") {
    auto socket = NftSocket::open();
    REQUIRE_MESSAGE(socket, socket.error().text);
    for (const std::string& shape : shapes) {
        INFO(shape);
        const auto ruleset = plan(shape);
        reach(*socket, ruleset);
        CHECK(reach(*socket, ruleset) == 0);
        // nft 1.0.6 aborts over a range of all strings within a concatenation (segtree.c, concat_range_aggregate).
        if (shape != any_interface_and_more) CHECK(listing().find("typeof") != std::string::npos);
    }
}

TEST_CASE_FIXTURE(Namespace, "one more port is one more element") {
    auto socket = NftSocket::open();
    REQUIRE_MESSAGE(socket, socket.error().text);
    reach(*socket, plan("  - { name: a, match: [{ protocol: tcp, ports: [80, 443] }] }\n"));
    CHECK(reach(*socket, plan("  - { name: a, match: [{ protocol: tcp, ports: [80, 443, 8080] }] }\n")) == 1);
    CHECK(reach(*socket, plan("  - { name: a, match: [{ protocol: tcp, ports: [80, 8080] }] }\n")) == 1);
}

TEST_CASE_FIXTURE(Namespace, "a map that is still growing is read whole") {
    auto socket = NftSocket::open();
    REQUIRE_MESSAGE(socket, socket.error().text);
    const auto large = plan("  - { name: a, match: [{ protocol: [tcp, udp], ports: [1-1000] }] }\n");
    const auto small = plan("  - { name: a, match: [{ mark: 5 }] }\n");
    for (int i = 0; i < 40; ++i) {
        reach(*socket, large);
        CHECK(reach(*socket, large) == 0);
        reach(*socket, small);
    }
}

int main(int argc, char** argv) {
    if (::geteuid() != 0 || ::unshare(CLONE_NEWNET) != 0) {
        std::puts("skipped: needs root");
        return 77;
    }
    return doctest::Context(argc, argv).run();
}
