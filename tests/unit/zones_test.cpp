// Ids as tables: what was remembered, what the policy says, what must come out.

#include "plan/zones.hpp"

#include <doctest/doctest.h>
#include <fmt/format.h>

#include <algorithm>
#include <chrono>

using namespace ctcached;

namespace {

constexpr auto original = Direction::original;
constexpr auto both = Direction::both;

struct Named {
    std::string name;
    std::optional<std::uint16_t> id = {};
    std::optional<Direction> direction = {};
};

Policy policy(const std::vector<Named>& zones) {
    Policy result;
    for (const auto& [name, id, direction] : zones) {
        Zone zone;
        zone.name = name;
        zone.id = id;
        zone.direction = direction;
        zone.match.emplace_back();
        result.zones.push_back(zone);
    }
    return result;
}

std::string text(const ZoneTable& table) {
    std::string result;
    for (const auto& [name, id, direction] : table)
        result += fmt::format("{}={}{} ", name, id, direction == both ? "/both" : "");
    return result;
}

ZoneTable many(int count, int first_id = 1) {
    ZoneTable table;
    for (int i = 0; i < count; ++i)
        table.push_back({fmt::format("z{}", i), static_cast<std::uint16_t>(first_id + i), original});
    return table;
}

} // namespace

TEST_CASE("ids and directions") {
    struct Case {
        const char* what;
        ZoneTable remembered;
        std::vector<Named> zones;
        std::string assigned;
        std::string remember;
        std::vector<std::uint16_t> recycled;
    };
    const std::vector<Case> cases = {
        {"nothing at all", {}, {}, "", "", {}},
        {"the first zones count from 1", {}, {{"a"}, {"b"}}, "a=1 b=2 ", "a=1 b=2 ", {}},
        {"an explicit id is skipped by automatic ones",
         {},
         {{"a"}, {"b", 1}, {"c"}},
         "a=2 b=1 c=3 ",
         "a=2 b=1 c=3 ",
         {}},
        {"ids survive a reordering", {{"a", 1}, {"b", 2}}, {{"b"}, {"a"}}, "b=2 a=1 ", "b=2 a=1 ", {}},
        {"ids survive a new zone in front",
         {{"a", 1}, {"b", 2}},
         {{"n"}, {"a"}, {"b"}},
         "n=3 a=1 b=2 ",
         "n=3 a=1 b=2 ",
         {}},
        {"a removed zone keeps its id", {{"a", 1}, {"b", 2}}, {{"b"}, {"n"}}, "b=2 n=3 ", "b=2 n=3 a=1 ", {}},
        {"and gets it again", {{"b", 2}, {"n", 3}, {"a", 1}}, {{"n"}, {"a"}}, "n=3 a=1 ", "n=3 a=1 b=2 ", {}},
        {"renaming another zone changes nothing here",
         {{"a", 1}, {"b", 2}},
         {{"x"}, {"b"}},
         "x=3 b=2 ",
         "x=3 b=2 a=1 ",
         {}},
        {"explicit evicts automatic", {{"a", 10}}, {{"a"}, {"b", 10}}, "a=1 b=10 ", "a=1 b=10 ", {10}},
        {"explicit evicts an absent zone", {{"a", 10}}, {{"b", 10}}, "b=10 ", "b=10 ", {10}},
        {"the evicted zone does not come back to it", {{"b", 10}, {"a", 1}}, {{"a"}}, "a=1 ", "a=1 b=10 ", {}},
        {"an explicit id that the zone has anyway", {{"a", 10}}, {{"a", 10}}, "a=10 ", "a=10 ", {}},
        {"an id once explicit stays without it", {{"a", 10}}, {{"a"}}, "a=10 ", "a=10 ", {}},
        {"renumbered: the old id's entries belong to nobody", {{"a", 1}}, {{"a", 7}}, "a=7 ", "a=7 ", {1}},
        {"renumbered, and the old id given away at once", {{"a", 1}}, {{"n"}, {"a", 7}}, "n=1 a=7 ", "n=1 a=7 ", {1}},
        {"two zones swap their ids", {{"a", 1}, {"b", 2}}, {{"a", 2}, {"b", 1}}, "a=2 b=1 ", "a=2 b=1 ", {1, 2}},
        {"the chain of an eviction", {{"a", 1}, {"b", 2}}, {{"a", 2}, {"b"}}, "a=2 b=1 ", "a=2 b=1 ", {1, 2}},
        {"a direction is kept", {{"a", 1, both}}, {{"a"}}, "a=1/both ", "a=1/both ", {}},
        {"until the policy names another", {{"a", 1, both}}, {{"a", {}, original}}, "a=1 ", "a=1 ", {1}},
        {"a direction survives absence", {{"b", 2}, {"a", 1, both}}, {{"a"}}, "a=1/both ", "a=1/both b=2 ", {}},
        {"a direction survives eviction", {{"a", 1, both}}, {{"a"}, {"b", 1}}, "a=2/both b=1 ", "a=2/both b=1 ", {1}},
        {"a new zone is original", {}, {{"a"}, {"b", {}, both}}, "a=1 b=2/both ", "a=1 b=2/both ", {}},
        {"the last id", {}, {{"a", 65535}}, "a=65535 ", "a=65535 ", {}},
    };
    for (const auto& row : cases) {
        CAPTURE(row.what);
        const auto result = assign_zones(policy(row.zones), row.remembered);
        CHECK(text(result.zones) == row.assigned);
        CHECK(text(result.remember) == row.remember);
        CHECK(result.recycled == row.recycled);
    }
}

TEST_CASE("assigning twice is assigning once") {
    const auto wanted = policy({{"a"}, {"b", 1}, {"c"}, {"d", {}, both}});
    const auto first = assign_zones(wanted, {{"c", 1, both}, {"gone", 5}});
    const auto second = assign_zones(wanted, first.remember);
    CHECK(second.zones == first.zones);
    CHECK(second.remember == first.remember);
    CHECK(second.recycled.empty());
}

TEST_CASE("when every id is remembered, the zone that was seen longest ago gives up its own") {
    const auto full = many(65'535);
    auto result = assign_zones(policy({{"n"}, {"z0"}, {"m"}}), full);
    CHECK(text(result.zones) == "n=65535 z0=1 m=65534 ");
    CHECK(result.recycled == std::vector<std::uint16_t>{65534, 65535});
    CHECK(result.remember.size() == 65'535);
    CHECK(std::ranges::none_of(result.remember, [](const auto& zone) { return zone.name == "z65534"; }));
    // The ones at the far end that are present, or taken by an explicit id, are passed over.
    result = assign_zones(policy({{"n"}, {"z65534"}, {"m", 65534}}), full);
    CHECK(text(result.zones) == "n=65533 z65534=65535 m=65534 ");
    CHECK(result.recycled == std::vector<std::uint16_t>{65533, 65534});
}

TEST_CASE("65,535 zones") {
    std::vector<Named> zones;
    for (const auto& zone : many(65'535)) zones.push_back({zone.name});
    std::ranges::reverse(zones);
    const auto start = std::chrono::steady_clock::now();
    const auto first = assign_zones(policy(zones), {});
    const auto second = assign_zones(policy(zones), first.remember);
    const auto read = zone_table_from_json(to_json(second.remember));
    const auto seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    REQUIRE(read);
    CHECK(*read == first.zones);
    CHECK(first.zones.front().id == 1);
    CHECK(first.zones.back().id == 65'535);
    MESSAGE("two assignments and the state file of 65,535 zones: ", seconds * 1000, " ms");
}

TEST_CASE("more zones than ids is a broken contract, not a wrong id") {
    std::vector<Named> zones;
    for (const auto& zone : many(65'536, 0)) zones.push_back({zone.name});
    CHECK_THROWS_AS((void)assign_zones(policy(zones), {}), std::logic_error);
}

TEST_CASE("the kernel's table wins over the file") {
    const ZoneTable file = {{"a", 1}, {"b", 2}, {"c", 3, both}};
    CHECK(text(merge_tables(file, {})) == "a=1 b=2 c=3/both ");
    CHECK(text(merge_tables({}, file)) == "a=1 b=2 c=3/both ");
    CHECK(text(merge_tables(file, {{"b", 2, both}})) == "b=2/both a=1 c=3/both "); // by name
    CHECK(text(merge_tables(file, {{"x", 3}})) == "x=3 a=1 b=2 ");                 // by id
    CHECK(text(merge_tables(file, {{"a", 2}})) == "a=2 c=3/both ");                // by both at once
    // What a foreign hand may have put there.
    CHECK(text(merge_tables({}, {{"a", 0}, {"", 4}, {"b c", 5}, {"d", 6}, {"d", 7}, {"e", 6}})) == "d=6 ");
}

TEST_CASE("the state file") {
    CHECK(to_json({}) == "{\"version\": 1, \"zones\": []}\n");
    const ZoneTable table = {{"web", 10, original}, {"v.o-i_p", 65535, both}};
    CHECK(to_json(table) == "{\"version\": 1, \"zones\": [\n"
                            "  {\"name\": \"web\", \"id\": 10, \"direction\": \"original\"},\n"
                            "  {\"name\": \"v.o-i_p\", \"id\": 65535, \"direction\": \"both\"}\n]}\n");
    CHECK(zone_table_from_json(to_json(table)) == table);
    CHECK(zone_table_from_json(to_json({})) == ZoneTable{});

    const auto zone = [](std::string_view inside) { return fmt::format(R"({{"version": 1, "zones": [{}]}})", inside); };
    const std::string good = R"({"name": "a", "id": 1, "direction": "both"})";
    REQUIRE(zone_table_from_json(zone(good)));
    struct Bad {
        std::string text;
        std::string reason; // part of it
    };
    const std::vector<Bad> cases = {
        {"", "unexpected end of input"},
        {"{", "syntax error"},
        {zone(good).substr(0, 60), "syntax error"},
        {std::string("\0\xff\xfe", 3), "syntax error"},
        {zone(R"({"name": ")"
              "\xff"
              R"(", "id": 1, "direction": "both"})"),
         "UTF-8"},
        {zone(good) + "x", "syntax error"},
        {"[]", "not an object"},
        {"null", "not an object"},
        {"{}", "not an object"},
        {R"({"version": 2, "zones": []})", "version"},
        {R"({"version": "1", "zones": []})", "version"},
        {R"({"version": 1, "zones": {}})", "not a list"},
        {R"({"version": 1, "zonen": []})", "zones"},
        {R"({"version": 1, "zones": [], "more": 1})", "not an object"},
        {R"({"version": 1, "version": 1, "zones": []})", "twice"},
        {zone("1"), "not an object"},
        {zone("[]"), "not an object"},
        {zone(R"({"name": "a", "id": 1})"), "not an object"},
        {zone(R"({"name": "a", "id": 1, "id": 1, "direction": "both"})"), "twice"},
        {zone(R"({"name": "a", "id": 1, "dir": "both"})"), "direction"},
        {zone(R"({"name": 1, "id": 1, "direction": "both"})"), "string"},
        {zone(R"({"name": "", "id": 1, "direction": "both"})"), "name"},
        {zone(R"({"name": "-a", "id": 1, "direction": "both"})"), "name"},
        {zone(R"({"name": "a\"b", "id": 1, "direction": "both"})"), "name"},
        {zone(fmt::format(R"({{"name": "{:x<64}", "id": 1, "direction": "both"}})", "")), "name"},
        {zone(R"({"name": "a", "id": 0, "direction": "both"})"), "id"},
        {zone(R"({"name": "a", "id": -1, "direction": "both"})"), "id"},
        {zone(R"({"name": "a", "id": 1.5, "direction": "both"})"), "id"},
        {zone(R"({"name": "a", "id": 65536, "direction": "both"})"), "id"},
        {zone(R"({"name": "a", "id": 18446744073709551617, "direction": "both"})"), "id"},
        {zone(R"({"name": "a", "id": "1", "direction": "both"})"), "id"},
        {zone(R"({"name": "a", "id": 1, "direction": "reply"})"), "direction"},
        {zone(R"({"name": "a", "id": 1, "direction": true})"), "string"},
        {zone(good + "," + good), "twice"},
        {zone(good + R"(,{"name": "b", "id": 1, "direction": "both"})"), "twice"},
        {zone(good + R"(,{"name": "a", "id": 2, "direction": "both"})"), "twice"},
        {std::string(10'000'000, '['), "larger"},
        {std::string(200'000, '['), "syntax error"},
        {std::string((16U << 20U) + 1, ' '), "larger"},
    };
    for (const auto& [text, reason] : cases) {
        CAPTURE(text.substr(0, 200));
        const auto result = zone_table_from_json(text);
        REQUIRE(!result);
        CHECK(result.error().error == EINVAL);
        CAPTURE(result.error().text);
        CHECK(result.error().text.find(reason) != std::string::npos);
    }
}
