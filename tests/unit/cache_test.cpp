// From the policy to the module's configuration, and the bytes that carry it: what is sent is what kmod/uapi says (and
// tests/kmod/client.py sends), what is read is what a module answered or what none would.

#include "kernel/ctcache_message.hpp"
#include "kernel/genl.hpp"
#include "kernel/genl_request.hpp"
#include "kernel/module.hpp"
#include "kernel/rivals.hpp"
#include "plan/compile.hpp"

#include <doctest/doctest.h>
#include <fmt/format.h>
#include <linux/genetlink.h>
#include <linux/netfilter/nf_tables.h>
#include <linux/netlink.h>

#include <cerrno>
#include <cstring>
#include <random>

using namespace ctcached;

namespace {

CachePlan plan_of(const std::string& text, const ZoneTable& remembered = {}) {
    Diagnostics diagnostics;
    const Source source{"test.yaml", text};
    const auto compiled = compile({&source, 1}, remembered, diagnostics);
    REQUIRE_FALSE(diagnostics.has_errors());
    return compiled.cache;
}

std::string first_error(const std::string& text) {
    Diagnostics diagnostics;
    const Source source{"test.yaml", text};
    (void)compile({&source, 1}, {}, diagnostics);
    return diagnostics.has_errors() ? diagnostics.to_text(diagnostics.entries.front()) : "";
}

std::string hex(std::string_view bytes) {
    std::string text;
    for (const unsigned char byte : bytes) {
        text += "0123456789abcdef"[byte >> 4U];
        text += "0123456789abcdef"[byte & 15U];
    }
    return text;
}

template <typename T>
std::string raw(T value) {
    return {reinterpret_cast<const char*>(&value), sizeof value};
}

constexpr std::size_t head_bytes = NLMSG_LENGTH(GENL_HDRLEN);

// A run of one, for others to hold.
std::string attribute(std::uint16_t type, std::string_view payload) {
    GenlRequest request(0, 0, 0, payload.size() + 8);
    request.put(type, payload);
    return request.bytes().substr(head_bytes);
}

std::string message(std::string bytes, std::string_view rest) {
    bytes += rest;
    const auto length = static_cast<std::uint32_t>(bytes.size());
    std::memcpy(bytes.data(), &length, sizeof length);
    return bytes;
}

std::string answer(std::uint16_t family, std::uint8_t command, std::string_view attributes) {
    return message(GenlRequest(family, command, 0).bytes(), attributes);
}

std::string acknowledged(const std::string& bytes) {
    return bytes +
           message(GenlRequest(NLMSG_ERROR, 0, 0).bytes().substr(0, NLMSG_HDRLEN), std::string(sizeof(nlmsgerr), '\0'));
}

std::string counters(std::initializer_list<std::pair<std::uint16_t, std::uint64_t>> values) {
    std::string bytes;
    for (const auto& [type, value] : values) bytes += attribute(type, raw(value));
    return bytes;
}

template <typename T>
int error_of(const Result<T>& result) {
    return result ? 0 : result.error().error;
}

} // namespace

TEST_CASE("the plan: ids, kinds and classes by zone id") {
    const auto plan = plan_of("version: 1\n"
                              "cache: { mode: required, decisions: 100, proof: 7 }\n"
                              "zones:\n"
                              "  - { name: b, id: 9, cache: [route, ipsec], class: 5, match: [{ protocol: tcp }] }\n"
                              "  - { name: a, id: 3, cache: none, match: [{ protocol: udp }] }\n"
                              "  - { name: c, id: 7, match: [{ protocol: sctp }] }\n"
                              "  - { name: d, id: 8, cache: [descriptor], match: [{ protocol: icmp }] }\n");
    CHECK(plan ==
          CachePlan{.mode = CacheMode::required,
                    .decisions = 100,
                    .proof = 7,
                    .zones = {{.id = 3, .kinds = {}, .flow_class = 0},
                              {.id = 7, .kinds = {.route = true, .ipsec = true, .socket = true}, .flow_class = 0},
                              {.id = 8, .kinds = {}, .flow_class = 0},
                              {.id = 9, .kinds = {.route = true, .ipsec = true}, .flow_class = 5}}});
    CHECK(plan_of("version: 1\n") ==
          CachePlan{.mode = CacheMode::automatic, .decisions = 65535, .proof = 0, .zones = {}});
    CHECK(plan_of("version: 1\ncache: { mode: off }\n").mode == CacheMode::off);
}

TEST_CASE("kinds that need routes") {
    const auto zone = [](const char* kinds) {
        return fmt::format("version: 1\nzones:\n  - {{ name: z, cache: [{}], match: [{{ protocol: tcp }}] }}\n", kinds);
    };
    CHECK(first_error(zone("ipsec")) == "test.yaml:3:23: error: ipsec can be cached only together with route");
    CHECK(first_error(zone("socket, descriptor")) ==
          "test.yaml:3:23: error: socket can be cached only together with route");
    for (const auto* kinds : {"route, socket", "ipsec, route", "descriptor"}) CHECK(first_error(zone(kinds)).empty());
}

TEST_CASE("the carrier") {
    CHECK(choose_carrier(false, false) == Carrier::act_ct);
    CHECK(choose_carrier(true, false) == Carrier::labels);
    CHECK(choose_carrier(false, true) == Carrier::labels);
}

TEST_CASE("a configuration in bytes") {
    const CachePlan plan{.mode = CacheMode::automatic,
                         .decisions = 0x1234,
                         .proof = 3,
                         .zones = {{.id = 10, .kinds = {.route = true, .socket = true}, .flow_class = 7}}};
    const std::string head = "21000500"
                             "00000000"
                             "00000000"
                             "01010000";
    CHECK(hex(encode_config(0x21, plan, Carrier::labels)) == "48000000" + head +
                                                                 "0500040002000000"   // carrier labels
                                                                 "0800050034120000"   // decisions
                                                                 "0800060003000000"   // proof
                                                                 "1c000980"           // a zone, nested
                                                                 "060001000a000000"   // its id
                                                                 "0800020005000000"   // route, socket
                                                                 "0800030007000000"); // class
    CHECK(hex(encode_config(0x21, plan, Carrier::none)) == "1c000000" + head + "0500040000000000");
    CHECK(hex(encode_flush(0x21, 10)) == "1c000000210005000000000000000000060100000600"
                                         "0a000a000000");
    CHECK(hex(encode_flush(0x21, {})) == "14000000210005000000000000000000"
                                         "06010000");
    CHECK(hex(encode_stats_request(0x21)) == "14000000210005000000000000000000"
                                             "03010000");
    CHECK(hex(encode_zone_stats_request(0x21)) == "14000000210001030000000000000000"
                                                  "03010000");
}

TEST_CASE("all zones fit into one message") {
    CachePlan plan;
    for (std::uint32_t id = 1; id <= 65'535; ++id)
        plan.zones.push_back({.id = static_cast<std::uint16_t>(id), .kinds = {}, .flow_class = id});
    const auto bytes = encode_config(0x21, plan, Carrier::act_ct);
    CHECK(bytes.size() == 20 + 3 * 8 + 65'535 * 28);
    std::uint32_t length = 0;
    std::memcpy(&length, bytes.data(), sizeof length);
    CHECK(length == bytes.size());
    CHECK(length < 4U << 20U); // what the socket may send
}

TEST_CASE("answers") {
    const auto generation = attribute(2, raw<std::uint64_t>(42));
    const auto state = [](std::uint8_t value) { return attribute(3, raw(value)); };
    CHECK(decode_configured(acknowledged(answer(0x21, 1, generation))) == 42);
    CHECK(error_of(decode_configured(acknowledged(answer(0x21, 1, "")))) == EBADMSG);
    CHECK(error_of(decode_configured(acknowledged(""))) == EBADMSG);
    CHECK(error_of(decode_configured(answer(0x21, 1, attribute(2, "1234")))) == EBADMSG);

    const auto stats = attribute(14, counters({{1, 100}, {2, 5}, {4, 3}, {12, 1}, {20, 9}}));
    const auto misses = attribute(15, counters({{2, 4}}));
    const auto epochs = attribute(16, counters({{3, 2}, {16, 6}}));
    const auto status = decode_status(acknowledged(answer(0x21, 3, generation + state(3) + stats + misses + epochs)));
    REQUIRE(status);
    CHECK(status->generation == 42);
    CHECK(status->state == ModuleState::lost);
    CHECK(status->counters == CacheCounters{{"hits", 100},
                                            {"misses", 5},
                                            {"decisions", 3},
                                            {"mismatches", 1},
                                            {"miss_epoch", 4},
                                            {"epochs_fib4", 2},
                                            {"epochs_ipsec", 6}});
    CHECK(error_of(decode_status(answer(0x21, 3, generation + state(4)))) == EBADMSG);
    CHECK(error_of(decode_status(answer(0x21, 3, generation))) == EBADMSG);
    CHECK(error_of(decode_status(answer(0x21, 3, state(1)))) == EBADMSG);

    const auto zone = [](std::uint16_t id, std::uint64_t hits) {
        return answer(0x21, 3, attribute(10, raw(id)) + attribute(14, counters({{1, hits}})));
    };
    const auto zones =
        decode_zone_stats(zone(10, 1) + zone(65'535, 2) + answer(0x21, 3, attribute(14, counters({{1, 3}}))));
    REQUIRE(zones);
    CHECK(*zones ==
          std::map<std::uint16_t, CacheCounters>{{0, {{"hits", 3}}}, {10, {{"hits", 1}}}, {65'535, {{"hits", 2}}}});
    CHECK(error_of(decode_zone_stats(answer(0x21, 3, attribute(10, "x")))) == EBADMSG);
}

TEST_CASE("families") {
    const std::string groups = attribute(1, attribute(CTRL_ATTR_MCAST_GRP_ID, raw<std::uint32_t>(16)) +
                                                attribute(CTRL_ATTR_MCAST_GRP_NAME, std::string("notify\0", 7)));
    const auto family = attribute(CTRL_ATTR_FAMILY_NAME, std::string("nlctrl\0", 7)) +
                        attribute(CTRL_ATTR_FAMILY_ID, raw<std::uint16_t>(16)) +
                        attribute(CTRL_ATTR_VERSION, raw<std::uint32_t>(2)) + attribute(CTRL_ATTR_MCAST_GROUPS, groups);
    const GenlFamily decoded{.name = "nlctrl", .id = 16, .version = 2, .notify = 16};
    CHECK(decode_families(acknowledged(answer(GENL_ID_CTRL, CTRL_CMD_NEWFAMILY, family))) ==
          std::vector<GenlEvent>{{true, decoded}});
    CHECK(decode_families(answer(GENL_ID_CTRL, CTRL_CMD_DELFAMILY, family)) ==
          std::vector<GenlEvent>{{false, decoded}});
    // Groups come and go, too, and are no news of a family.
    CHECK(decode_families(answer(GENL_ID_CTRL, CTRL_CMD_NEWMCAST_GRP, family)) == std::vector<GenlEvent>{});
    CHECK(error_of(decode_families(answer(GENL_ID_CTRL, CTRL_CMD_NEWFAMILY, attribute(CTRL_ATTR_FAMILY_ID, "ab")))) ==
          EBADMSG);
}

TEST_CASE("flowtables") {
    const auto flowtable = [](std::uint8_t family, const std::string& attributes) {
        return answer(10 << 8 | NFT_MSG_NEWFLOWTABLE, family, attributes);
    };
    const auto names = attribute(NFTA_FLOWTABLE_TABLE, std::string("fw\0", 3)) +
                       attribute(NFTA_FLOWTABLE_NAME, std::string("ft\0", 3));
    CHECK(decode_flowtables(acknowledged(flowtable(1, names) + flowtable(2, names))) ==
          std::vector<std::string>{"inet fw ft", "ip fw ft"});
    CHECK(decode_flowtables(acknowledged("")) == std::vector<std::string>{});
    CHECK(error_of(decode_flowtables(flowtable(1, ""))) == EBADMSG);
}

TEST_CASE("why a module cannot be loaded") {
    CHECK(explain_load(ENOENT) == "it is not installed for the running kernel");
    CHECK(explain_load(EKEYREJECTED).find("signature") != std::string::npos);
    CHECK(explain_load(EPERM).find("CAP_SYS_MODULE") != std::string::npos);
    CHECK(explain_load(ENOMEM) == strerrordesc_np(ENOMEM));
    CHECK(explain_load(99'999) == "error 99999");
    const auto nowhere = load_module("nf_ctcache", "/nonexistent");
    CHECK(error_of(nowhere) == ENOSYS);
    CHECK(nowhere.error().text == "module nf_ctcache: this kernel has no loadable modules");
}

TEST_CASE("any bytes are answered with manners") {
    const auto good = acknowledged(answer(0x21, 3,
                                          attribute(2, raw<std::uint64_t>(42)) + attribute(3, "\1") +
                                              attribute(14, counters({{1, 100}, {2, 5}}))));
    std::mt19937 random(1); // NOLINT: the same bytes each time
    for (int round = 0; round < 20'000; ++round) {
        auto bytes = good.substr(0, random() % (good.size() + 1) & ~3U);
        for (auto flips = random() % 4; flips > 0 && !bytes.empty(); --flips)
            bytes[random() % bytes.size()] = static_cast<char>(random());
        (void)decode_configured(bytes);
        (void)decode_status(bytes);
        (void)decode_zone_stats(bytes);
        (void)decode_families(bytes);
        (void)decode_flowtables(bytes);
    }
}
