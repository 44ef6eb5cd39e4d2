// The decoders over bytes of a kernel (tests/data/ctnetlink, Linux 6.18; tests/netns/ctnetlink_test.cpp records them),
// and over what no kernel sends.
//
// The recorded namespace had twelve flows over the loopback device, three to the ports of each kind: two over IPv4, one
// over IPv6; zone 1 in the original direction, zone 2 in both, zone 3 in the reply direction, the rest in no zone.

#include "base/files.hpp"
#include "kernel/ctnetlink.hpp"

#include <doctest/doctest.h>
#include <linux/netlink.h>
#include <sys/socket.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <random>

using namespace ctcached;

namespace {

std::string data(const std::string& name) {
    const auto bytes = read_file("tests/data/ctnetlink/" + name + ".bin", 1U << 20U);
    REQUIRE_MESSAGE(bytes, bytes.error().text);
    return *bytes;
}

// All decoders, for their manners.
void decode_all(const std::string& bytes) {
    (void)decode_totals(bytes);
    (void)decode_cpu_stats(bytes);
    for (const std::uint16_t zone : {0, 1, 2, 3}) (void)decode_zone_flows(bytes, zone);
}

template <typename T>
int error_of(const Result<T>& result) {
    return result ? 0 : result.error().error;
}

} // namespace

TEST_CASE("totals") {
    const auto totals = decode_totals(data("totals"));
    REQUIRE_MESSAGE(totals, totals.error().text);
    CHECK(totals->count == 12);
    CHECK(totals->max == 262'144);

    // Kernels before 4.18 answer without the maximum, the last attribute of the first message.
    auto old = data("totals");
    nlmsghdr header{};
    std::memcpy(&header, old.data(), sizeof header);
    old.erase(header.nlmsg_len - 8, 8);
    header.nlmsg_len -= 8;
    std::memcpy(old.data(), &header, sizeof header);
    REQUIRE(decode_totals(old));
    CHECK(decode_totals(old)->count == 12);
    CHECK(decode_totals(old)->max == 0);
}

TEST_CASE("counters are summed") {
    const auto stats = decode_cpu_stats(data("cpu_stats"));
    REQUIRE_MESSAGE(stats, stats.error().text);
    std::string names;
    for (const auto& [name, value] : *stats) names += name + " ";
    CHECK(names ==
          "chain_toolong clash_resolve drop early_drop error found insert insert_failed invalid search_restart ");

    // The same answer twice counts twice. This one has zeros only: flows that were opened on a quiet machine fail
    // nothing. So one counter of one CPU is written by hand: the first value behind the headers, "found".
    auto counted = data("cpu_stats");
    counted[sizeof(nlmsghdr) + 4 + sizeof(nlattr) + 3] = 5;
    CHECK(decode_cpu_stats(counted)->at("found") == stats->at("found") + 5);
    CHECK(decode_cpu_stats(counted + counted)->at("found") == 2 * (stats->at("found") + 5));
}

TEST_CASE("the flows of a zone") {
    const auto dump = data("dump");
    for (const std::uint16_t zone : {1, 2, 3}) {
        CAPTURE(zone);
        const auto flows = decode_zone_flows(dump, zone);
        REQUIRE_MESSAGE(flows, flows.error().text);
        CHECK(flows->size() == 3);
        CHECK(std::ranges::count(*flows, AF_INET, &ZoneFlow::family) == 2);
        CHECK(std::ranges::count(*flows, AF_INET6, &ZoneFlow::family) == 1);
        for (const auto& flow : *flows) {
            CHECK(flow.both == (zone == 2));
            CHECK(flow.by_reply == (zone == 3));
            CHECK(flow.id.size() == 4);
            CHECK(flow.tuple.size() >= 40);
        }
    }
    CHECK(decode_zone_flows(dump, 4)->empty());
    CHECK(decode_zone_flows(dump, 0)->empty()); // the kernel does not write zone 0
    CHECK(decode_zone_flows({}, 1)->empty());
}

TEST_CASE("what the kernel refused") {
    const auto refused = data("refused");
    CHECK(error_of(decode_totals(refused)) == ENOENT);
    CHECK(error_of(decode_cpu_stats(refused)) == ENOENT);
    CHECK(error_of(decode_zone_flows(refused, 1)) == ENOENT);
    CHECK(decode_totals(refused).error().text == "conntrack totals: No such file or directory");
}

TEST_CASE("an answer to another question") {
    CHECK(error_of(decode_totals(data("cpu_stats"))) == EBADMSG);
    CHECK(error_of(decode_cpu_stats(data("totals"))) == EBADMSG);
    CHECK(error_of(decode_zone_flows(data("totals"), 1)) == EBADMSG);
    CHECK(error_of(decode_totals({})) == EBADMSG);
    CHECK(error_of(decode_cpu_stats({})) == EBADMSG);
}

TEST_CASE("bytes that break off anywhere, and bytes with errors in them") {
    std::mt19937 random(1); // NOLINT(*-msc51-cpp): the same on every run
    for (const auto* name : {"totals", "cpu_stats", "dump", "refused"}) {
        const auto bytes = data(name);
        for (std::size_t length = 0; length < bytes.size(); ++length) decode_all(bytes.substr(0, length));
        for (std::size_t shift = 1; shift < 8; ++shift) decode_all(bytes.substr(shift)); // unaligned, out of step
        for (int round = 0; round < 2000; ++round) {
            auto changed = bytes;
            for (auto count = random() % 4 + 1; count > 0; --count)
                changed[random() % changed.size()] = static_cast<char>(random());
            decode_all(changed);
        }
    }
    CHECK(error_of(decode_totals(data("totals").substr(0, 30))) == EBADMSG);
}
