// The nftables socket against the running kernel, each case in a network namespace of its own.
#define DOCTEST_CONFIG_IMPLEMENT
#include "kernel/nft.hpp"
#include "nft_sample.hpp"

#include <doctest/doctest.h>
#include <sched.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <memory>

using namespace ctcached;

namespace {

// A new namespace per case; the kernel drops the old one with its last socket.
struct Namespace {
    Namespace() { REQUIRE(::unshare(CLONE_NEWNET) == 0); }
};

NftSocket open_socket() {
    auto socket = NftSocket::open();
    REQUIRE_MESSAGE(socket, socket.error().text);
    return std::move(*socket);
}

NftSocket::Observation observe(NftSocket& socket) {
    auto seen = socket.observe();
    REQUIRE_MESSAGE(seen, seen.error().text);
    return std::move(*seen);
}

void program(NftSocket& socket, const std::vector<Change>& changes) {
    auto done = socket.apply(changes, observe(socket).generation);
    REQUIRE_MESSAGE(done, done.error().failure.text);
}

struct Output {
    int status = 0;
    std::string text;
};

Output run(const std::string& command) {
    std::unique_ptr<FILE, int (*)(FILE*)> pipe(::popen((command + " 2>&1").c_str(), "r"), ::pclose);
    REQUIRE(pipe);
    Output output;
    for (int c = 0; (c = std::fgetc(pipe.get())) != EOF;) output.text.push_back(static_cast<char>(c));
    output.status = ::pclose(pipe.release());
    return output;
}

} // namespace

TEST_CASE_FIXTURE(Namespace, "what is written is what is read") {
    auto socket = open_socket();
    CHECK_FALSE(observe(socket).table);
    program(socket, sample::creation(sample::ruleset(), {}));
    auto seen = observe(socket);
    REQUIRE(seen.table);
    CHECK(seen.table->flags == AddTable{});
    CHECK(seen.table->owner == 0);
    auto want = sample::ruleset();
    REQUIRE(seen.table->ruleset.sets.size() == want.sets.size());
    for (std::size_t i = 0; i < want.sets.size(); ++i) {
        INFO(want.sets[i].name);
        CHECK(seen.table->ruleset.sets[i].foreign.empty());
        CHECK(sample::same(seen.table->ruleset.sets[i], want.sets[i]));
    }
    REQUIRE(seen.table->ruleset.chains.size() == want.chains.size());
    for (std::size_t i = 0; i < want.chains.size(); ++i) {
        INFO(want.chains[i].name);
        CHECK(sample::same(seen.table->ruleset.chains[i], want.chains[i]));
    }
}

TEST_CASE_FIXTURE(Namespace, "nft lists the table with typeof, and loads its own listing") {
    auto socket = open_socket();
    program(socket, sample::creation(sample::ruleset(), {}));
    auto list = run("nft list table inet ctcached");
    INFO(list.text);
    CHECK(list.status == 0);
    for (const char* line :
         {"typeof iifname : ct zone", "typeof ip saddr : ct zone",
          "typeof ip6 saddr . iifname . meta l4proto . th dport : ct zone", "typeof meta mark : ct zone",
          "typeof meta l4proto . th dport : ct zone", "typeof ct zone\n", "comment \"web original\"",
          "ct original zone set meta l4proto . th dport map @proto_dport accept",
          "\"vlan*\" counter packets 0 bytes 0 : 11", "10.20.0.0/16 counter packets 0 bytes 0 : 12",
          "ct zone set meta mark & 0x000000ff map @markm accept"}) {
        INFO(line);
        CHECK(list.text.find(line) != std::string::npos);
    }
    auto reload = run("t=$(nft list table inet ctcached) && nft delete table inet ctcached && echo \"$t\" | nft -f -");
    INFO(reload.text);
    CHECK(reload.status == 0);
    CHECK(observe(socket).table);
}

int main(int argc, char** argv) {
    if (::geteuid() != 0 || ::unshare(CLONE_NEWNET) != 0) {
        std::puts("skipped: needs root");
        return 77;
    }
    return doctest::Context(argc, argv).run();
}
