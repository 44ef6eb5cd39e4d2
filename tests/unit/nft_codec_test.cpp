// The codec without a kernel: values to bytes and back, and what two kernels really said.
//
// tests/data/nft (below the repository, where the test runs) holds a folder per kernel, recorded by the socket's test
// in tests/netns.
#include "../netns/nft_sample.hpp"
#include "base/handle.hpp"
#include "kernel/nft_codec.hpp"
#include "kernel/nft_event.hpp"

#include <doctest/doctest.h>
#include <libnftnl/common.h>
#include <libnftnl/expr.h>
#include <libnftnl/rule.h>
#include <linux/netfilter.h>
#include <linux/netfilter/nf_conntrack_tuple_common.h>
#include <linux/netfilter/nf_tables.h>
#include <linux/netlink.h>

#include <cerrno>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <functional>
#include <iterator>

using namespace ctcached;
using namespace std::string_literals;

namespace {

const std::vector<std::string> kernels{"6.1.0", "6.18.44"};

std::string recorded(const std::string& kernel, const char* name) {
    std::ifstream file(std::filesystem::path("tests/data/nft") / kernel / name, std::ios::binary);
    REQUIRE(file);
    return {std::istreambuf_iterator<char>(file), {}};
}

ObservedTable decode(const std::string& bytes) {
    std::optional<ObservedTable> table;
    auto taken = decode_into(table, bytes);
    REQUIRE_MESSAGE(taken, taken.error().text);
    REQUIRE(table);
    REQUIRE(sort(*table));
    return std::move(*table);
}

std::vector<NftReply> replies(const std::string& bytes) {
    auto messages = split_messages(bytes);
    REQUIRE(messages);
    std::vector<NftReply> found;
    for (const auto& message : *messages)
        if (auto reply = decode_reply(message)) found.push_back(*reply);
    return found;
}

std::string hex(const Bytes& bytes) {
    std::string text;
    for (unsigned char byte : bytes) {
        text += "0123456789abcdef"[byte >> 4U];
        text += "0123456789abcdef"[byte & 15U];
    }
    return text;
}

std::string userdata(std::string type_of, bool map) {
    return hex(set_userdata(sample::make_set("s", std::move(type_of), {0, 0, {}, map, false}, {})));
}

// Decodes one expression that libnftnl wrote.
Expression round_trip(const char* name, const std::function<void(nftnl_expr*)>& fill) {
    Handle<nftnl_rule, nftnl_rule_free> rule(nftnl_rule_alloc());
    nftnl_rule_set_str(rule.get(), NFTNL_RULE_TABLE, table_name);
    nftnl_rule_set_str(rule.get(), NFTNL_RULE_CHAIN, "c");
    nftnl_expr* expression = nftnl_expr_alloc(name);
    fill(expression);
    nftnl_rule_add_expr(rule.get(), expression);
    std::vector<char> buffer(4096);
    auto* message = nftnl_nlmsg_build_hdr(buffer.data(), NFT_MSG_NEWRULE, NFPROTO_INET, 0, 1);
    nftnl_rule_nlmsg_build_payload(message, rule.get());
    std::optional<ObservedTable> table;
    table.emplace().ruleset.chains.push_back({"c", {}, {}});
    REQUIRE(decode_into(table, {buffer.data(), message->nlmsg_len}));
    return table->ruleset.chains.front().rules.front().front();
}

bool is_foreign(const Expression& expression) { return std::holds_alternative<Foreign>(expression); }

} // namespace

TEST_CASE("what is encoded is decoded") {
    const auto changes = sample::creation(sample::ruleset(), {.owner = true});
    auto batch = encode_batch(changes, 7, 100);
    auto table = decode(batch.bytes);
    CHECK(table.flags == AddTable{.owner = true});
    CHECK(sample::same(table.ruleset, sample::ruleset()));
}

TEST_CASE("a batch knows which change each message carries") {
    auto batch = encode_batch({AddTable{}, DeleteChain{"a"}, AddElements{"m", {}}, DeleteSet{"s"}}, 7, 100);
    CHECK(batch.changes == std::vector<std::size_t>{0, 1, 3});
    CHECK_FALSE(batch.change(99));
    CHECK_FALSE(batch.change(100)); // begin
    CHECK(batch.change(101) == 0);
    CHECK(batch.change(103) == 3);
    CHECK(batch.last() == 103);
    CHECK_FALSE(batch.change(104)); // end
    auto messages = split_messages(batch.bytes);
    REQUIRE(messages);
    REQUIRE(messages->size() == 5);
    CHECK(messages->front().attributes.u32(1) == 7); // NFNL_BATCH_GENID
    for (std::size_t i = 0; i < 5; ++i) {
        CHECK((*messages)[i].sequence == 100 + i);
        CHECK(((*messages)[i].flags & NLM_F_ACK) == (i == 3 ? NLM_F_ACK : 0)); // the last one, which is not the end
    }
}

TEST_CASE("one changed element is one message of one element") {
    auto batch = encode_batch({AddElements{"proto_dport", {sample::start(sample::protocol_port(6, 80), 10)}}}, 7, 1);
    CHECK(batch.changes.size() == 1);
    CHECK(batch.bytes.size() < 200);
}

TEST_CASE("many elements become many messages, none of them too long, and none is lost") {
    auto set = sample::make_set("m", "meta mark", {19, 4, {}, true, false}, {});
    for (std::uint32_t i = 0; i < 10'000; ++i) {
        Bytes key(sizeof i, '\0');
        std::memcpy(key.data(), &i, sizeof i);
        set.elements.push_back(sample::start(key, static_cast<std::uint16_t>(i)));
        if (i % 3 == 0) set.elements.back().comment = std::string(i % 100, 'c');
    }
    std::ranges::sort(set.elements);
    auto batch = encode_batch(sample::creation({.sets = {set}, .chains = {}}, {}), 7, 1);
    CHECK(batch.changes.size() > 5);
    auto messages = split_messages(batch.bytes);
    REQUIRE(messages);
    for (const auto& message : *messages) CHECK(message.body.size() < UINT16_MAX);
    CHECK(sample::same(decode(batch.bytes).ruleset.sets.front(), set));
}

TEST_CASE("changes have names") {
    CHECK(name_of(AddElements{"ip4_saddr", std::vector<Element>(3)}) == "map ip4_saddr: add 3 elements");
    CHECK(name_of(DeleteElements{"zones", std::vector<Element>(1)}) == "set zones: delete 1 element");
    CHECK(name_of(AddTable{}) == "table: create");
    CHECK(name_of(AddRule{"output", {}}) == "chain output: add a rule");
}

TEST_CASE("user data is what nft writes") {
    // nft 1.0.6, seen with strace for the same typeof.
    CHECK(userdata("meta l4proto", false) == "000401000000030e0004090000000106000410000000");
    CHECK(userdata("meta nfproto", false) == "000401000000030e000409000000010600040f000000");
    CHECK(userdata("meta protocol", false) == "000402000000030e0004090000000106000401000000");
    CHECK(userdata("meta mark", false) == "000401000000030e0004090000000106000403000000");
    CHECK(userdata("oifname", false) == "000401000000030e0004090000000106000407000000");
    CHECK(userdata("th sport", false) == "0004020000000314000407000000010c00040b000000010401000000");
    CHECK(userdata("th dport", false) == "0004020000000314000407000000010c00040b000000010402000000");
    CHECK(userdata("ip daddr", false) == "0004020000000314000407000000010c00040c00000001040c000000");
    CHECK(userdata("ip6 saddr", false) == "0004020000000314000407000000010c00040d000000010408000000");
    CHECK(userdata("ip6 daddr", false) == "0004020000000314000407000000010c00040d000000010409000000");
    CHECK(userdata("ct zone", false) == "000401000000031400040c000000010c0004110000000104ffffffff");
    CHECK(userdata("ip saddr", true) ==
          "00040200000001040100000003"
          "14000407000000010c00040c00000001040b000000041400040c000000010c0004110000000104ffffffff060400000000");
    CHECK(
        userdata("ct zone . ip saddr . th sport", false) ==
        "000400000000034a00040d0000000142001400040c000000010c0004110000000104ffffffff0114000407000000010c00040c0000000"
        "1040b0000000214000407000000010c00040b000000010401000000");
    CHECK(userdata("something else", true).empty());
    CHECK(userdata("", true).empty());
}

TEST_CASE("kernels dump the table as it was written") {
    for (const auto& kernel : kernels) {
        INFO(kernel);
        auto table = decode(recorded(kernel, "sample"));
        CHECK(table.flags == AddTable{.owner = true});
        CHECK(table.owner != 0);
        CHECK(sample::same(table.ruleset, sample::ruleset()));
        CHECK(decode_generation(recorded(kernel, "sample")).value_or(0) > 1);
    }
}

TEST_CASE("kernels dump what others wrote as foreign") {
    for (const auto& kernel : kernels) {
        INFO(kernel);
        auto table = decode(recorded(kernel, "foreign"));
        CHECK(table.flags == AddTable{.owner = false, .persist = false, .dormant = true});
        CHECK(table.ruleset.chains.size() == 2); // without the one of table ip ctcached
        for (const auto& set : table.ruleset.sets) CHECK(set.foreign.empty() == (set.name == "any"));
        for (const auto& rule : table.ruleset.chains.front().rules) CHECK(std::ranges::any_of(rule, is_foreign));
    }
}

TEST_CASE("kernels refuse in these words") {
    for (const auto& kernel : kernels) {
        INFO(kernel);
        auto refused = replies(recorded(kernel, "refused"));
        REQUIRE(refused.size() == 1);
        CHECK(refused.front().error == EEXIST);
        CHECK(replies(recorded(kernel, "raced")).front().error == ERESTART);
        CHECK(replies(recorded(kernel, "missing")).front().error == ENOENT);
    }
}

TEST_CASE("an error may carry words, behind the request or in its place") {
    auto message = [](std::uint16_t flags, std::size_t echo) {
        std::string body(sizeof(nlmsgerr), '\0');
        nlmsgerr error{};
        error.error = -EBUSY;
        error.msg.nlmsg_len = static_cast<std::uint32_t>(sizeof(nlmsghdr) + echo);
        std::memcpy(body.data(), &error, sizeof error);
        if ((flags & NLM_F_CAPPED) == 0) body.append(echo, '\x7f');
        body.resize(NLMSG_ALIGN(body.size()));
        body += "\x0e\0\1\0still used\0\0"s;
        nlmsghdr header{};
        header.nlmsg_len = static_cast<std::uint32_t>(sizeof header + body.size());
        header.nlmsg_type = NLMSG_ERROR;
        header.nlmsg_flags = flags;
        return std::string(reinterpret_cast<const char*>(&header), sizeof header) + body;
    };
    CHECK(replies(message(NLM_F_ACK_TLVS | NLM_F_CAPPED, 33)).front().text == "still used");
    CHECK(replies(message(NLM_F_ACK_TLVS, 33)).front().text == "still used");
    CHECK(replies(message(NLM_F_CAPPED, 0)).front().text.empty());
    CHECK(replies(message(NLM_F_ACK_TLVS | NLM_F_CAPPED, 33)).front().error == EBUSY);
}

TEST_CASE("kernels notify, and equal events are counted") {
    for (const auto& kernel : kernels) {
        INFO(kernel);
        NftEventLog log;
        REQUIRE(log.take(recorded(kernel, "events"), 0));
        auto events = log.finished();
        std::vector<std::string> texts;
        for (const auto& event : events) {
            texts.push_back(event.text);
            CHECK(event.pid != 0);
            CHECK(event.port != 0);
            CHECK(event.process == "nft_socket_test");
        }
        auto told = [&](const char* text) { return std::ranges::find(texts, text) != texts.end(); };
        CHECK(told("map proto_dport: 2 elements removed"));
        CHECK(told("table deleted"));
        CHECK(log.finished(true).empty());

        REQUIRE(log.take(recorded(kernel, "events"), events.front().port));
        CHECK(log.finished(true).empty()); // one's own changes are no news
    }
}

TEST_CASE("events wait for the end of their transaction") {
    auto batch = encode_batch({DeleteChain{"c"}}, 7, 1); // a message of the same form, without NFT_MSG_NEWGEN
    NftEventLog log;
    REQUIRE(log.take(batch.bytes, 4711));
    CHECK(log.finished().empty());
    auto all = log.finished(true);
    REQUIRE(all.size() == 1);
    CHECK(all.front() == NftEvent{"chain c deleted", 0, 0, ""});
}

TEST_CASE("expressions that only resemble ours are foreign") {
    auto u32 = [](std::vector<std::pair<std::uint16_t, std::uint32_t>> values) {
        return [values](nftnl_expr* e) {
            for (auto [type, value] : values) nftnl_expr_set_u32(e, type, value);
        };
    };
    constexpr std::uint32_t reg = NFT_REG32_00;
    CHECK(round_trip("meta", u32({{NFTNL_EXPR_META_KEY, NFT_META_MARK}, {NFTNL_EXPR_META_DREG, NFT_REG_3}})) ==
          Expression(MetaLoad{MetaKey::mark, 8}));
    CHECK(is_foreign(round_trip("meta", u32({{NFTNL_EXPR_META_KEY, NFT_META_MARK}, {NFTNL_EXPR_META_SREG, reg}}))));
    CHECK(is_foreign(round_trip("meta", u32({{NFTNL_EXPR_META_KEY, NFT_META_IIF}, {NFTNL_EXPR_META_DREG, reg}}))));
    CHECK(is_foreign(round_trip("meta", u32({{NFTNL_EXPR_META_KEY, NFT_META_MARK}, {NFTNL_EXPR_META_DREG, 24}}))));
    CHECK(is_foreign(round_trip("payload", u32({{NFTNL_EXPR_PAYLOAD_BASE, NFT_PAYLOAD_INNER_HEADER},
                                                {NFTNL_EXPR_PAYLOAD_OFFSET, 0},
                                                {NFTNL_EXPR_PAYLOAD_LEN, 4},
                                                {NFTNL_EXPR_PAYLOAD_DREG, reg}}))));
    auto bitwise = [&](const Bytes& exclusive_or, std::uint32_t to) {
        return round_trip("bitwise", [&](nftnl_expr* e) {
            u32({{NFTNL_EXPR_BITWISE_SREG, reg}, {NFTNL_EXPR_BITWISE_DREG, to}, {NFTNL_EXPR_BITWISE_LEN, 4}})(e);
            nftnl_expr_set_u32(e, NFTNL_EXPR_BITWISE_OP, NFT_BITWISE_BOOL);
            nftnl_expr_set_data(e, NFTNL_EXPR_BITWISE_MASK, "\xff\0\0\0", 4);
            nftnl_expr_set_data(e, NFTNL_EXPR_BITWISE_XOR, exclusive_or.data(), 4);
        });
    };
    CHECK(bitwise(Bytes(4, '\0'), reg) == Expression(BitwiseAnd{0, "\xff\0\0\0"s}));
    CHECK(is_foreign(bitwise("\0\0\0\1"s, reg)));
    CHECK(is_foreign(bitwise(Bytes(4, '\0'), reg + 1)));
    auto compare = [&](std::uint32_t operation) {
        return round_trip("cmp", [&](nftnl_expr* e) {
            u32({{NFTNL_EXPR_CMP_SREG, reg}, {NFTNL_EXPR_CMP_OP, operation}})(e);
            nftnl_expr_set_data(e, NFTNL_EXPR_CMP_DATA, "\1", 1);
        });
    };
    CHECK(compare(NFT_CMP_NEQ) == Expression(Compare{0, false, "\1"}));
    CHECK(is_foreign(compare(NFT_CMP_LT)));
    auto lookup = [&](std::uint32_t flags) {
        return round_trip("lookup", [&](nftnl_expr* e) {
            u32({{NFTNL_EXPR_LOOKUP_SREG, reg}, {NFTNL_EXPR_LOOKUP_FLAGS, flags}})(e);
            nftnl_expr_set_str(e, NFTNL_EXPR_LOOKUP_SET, "s");
        });
    };
    CHECK(lookup(0) == Expression(Lookup{"s", 0, {}}));
    CHECK(is_foreign(lookup(NFT_LOOKUP_F_INV)));
    CHECK(is_foreign(round_trip("ct", [&](nftnl_expr* e) {
        u32({{NFTNL_EXPR_CT_KEY, NFT_CT_ZONE}, {NFTNL_EXPR_CT_SREG, reg}})(e);
        nftnl_expr_set_u8(e, NFTNL_EXPR_CT_DIR, IP_CT_DIR_REPLY);
    })));
    CHECK(is_foreign(round_trip("ct", [&](nftnl_expr* e) {
        u32({{NFTNL_EXPR_CT_KEY, NFT_CT_ZONE}, {NFTNL_EXPR_CT_DREG, reg}})(e);
        nftnl_expr_set_u8(e, NFTNL_EXPR_CT_DIR, IP_CT_DIR_ORIGINAL);
    })));
    CHECK(is_foreign(round_trip("ct", u32({{NFTNL_EXPR_CT_KEY, NFT_CT_MARK}, {NFTNL_EXPR_CT_SREG, reg}}))));
    auto immediate = [&](int verdict, const char* chain) {
        return round_trip("immediate", [&](nftnl_expr* e) {
            u32({{NFTNL_EXPR_IMM_DREG, NFT_REG_VERDICT},
                 {NFTNL_EXPR_IMM_VERDICT, static_cast<std::uint32_t>(verdict)}})(e);
            if (chain) nftnl_expr_set_str(e, NFTNL_EXPR_IMM_CHAIN, chain);
        });
    };
    CHECK(immediate(NFT_JUMP, "x") == Expression(Verdict{VerdictKind::jump, "x"}));
    CHECK(is_foreign(immediate(NFT_GOTO, "x")));
    CHECK(is_foreign(immediate(NF_DROP, nullptr)));
    CHECK(is_foreign(round_trip("byteorder", u32({{NFTNL_EXPR_BYTEORDER_SREG, reg},
                                                  {NFTNL_EXPR_BYTEORDER_DREG, reg},
                                                  {NFTNL_EXPR_BYTEORDER_OP, NFT_BYTEORDER_NTOH},
                                                  {NFTNL_EXPR_BYTEORDER_LEN, 4},
                                                  {NFTNL_EXPR_BYTEORDER_SIZE, 4}}))));
    CHECK(round_trip("counter", [](nftnl_expr*) {}) == Expression(Foreign{"counter"}));
}

TEST_CASE("a dump that has an element twice is torn") {
    ObservedTable table;
    auto& elements = table.ruleset.sets.emplace_back().elements;
    elements = {{.key = "\2"}, {.key = "\1"}, {.key = "\1", .interval_end = true}};
    CHECK(sort(table));
    elements.push_back({.key = "\2", .packets = 1});
    auto sorted = sort(table);
    REQUIRE_FALSE(sorted);
    CHECK(sorted.error().error == EINTR);
}

TEST_CASE("cut or broken bytes are refused, never misread") {
    for (const auto& kernel : kernels) {
        const auto whole = recorded(kernel, "sample");
        for (std::size_t length = 0; length < whole.size(); ++length) {
            const std::string cut = whole.substr(0, length);
            std::optional<ObservedTable> table;
            auto taken = decode_into(table, cut);
            if (!taken) CHECK(taken.error().error == EBADMSG);
            if (taken && table) CHECK_FALSE(sample::same(table->ruleset, sample::ruleset()));
        }
        for (std::size_t at = 0; at < whole.size(); ++at) {
            auto broken = whole;
            broken[at] = static_cast<char>(broken[at] ^ 0x55);
            std::optional<ObservedTable> table;
            (void)decode_into(table, broken);
        }
    }
}
