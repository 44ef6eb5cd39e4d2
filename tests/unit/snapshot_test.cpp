// What the bus shows, as values: the JSON of Describe, which properties differ, what their types are, and strings that
// no bus would take.
#include "bus/message.hpp"
#include "bus/objects.hpp"
#include "bus/snapshot.hpp"

#include <doctest/doctest.h>
#include <nlohmann/json.hpp>

using namespace ctcached;

namespace {

Snapshot example() {
    Snapshot snapshot;
    snapshot.version = "1.2.3";
    snapshot.generation = 4;
    snapshot.conntrack_count = 18'446'744'073'709'551'615U; // must survive JSON: 2^64 - 1
    snapshot.cache_reason = "the module is not there";
    snapshot.statistics = {{"insert_failed", 3}, {"drop", 1}};
    snapshot.sizing = {{"budget", 1'000'000U}, {"measured", true}, {"arithmetic", "1 + 1"}};
    snapshot.zones.push_back({.name = "web",
                              .id = 10,
                              .direction = "original",
                              .match = "tcp 80",
                              .cache = {"route"},
                              .links = {},
                              .missing = {"lan0"},
                              .flow_class = 7,
                              .statistics = {{"packets", 5}}});
    return snapshot;
}

std::vector<std::string> changed(const Snapshot& before, const Snapshot& after) {
    auto names = changed_properties(manager_properties(), before, after);
    return {names.begin(), names.end()};
}

} // namespace

TEST_CASE("JSON has every member, numbers as numbers, keys sorted") {
    const auto text = to_json(example());
    const auto value = nlohmann::json::parse(text);
    CHECK(value["state"] == "running");
    CHECK(value["pressure"] == "ok");
    CHECK(value["conntrack_count"].get<std::uint64_t>() == 18'446'744'073'709'551'615U);
    CHECK(value["sizing"] == nlohmann::json{{"budget", 1'000'000}, {"measured", true}, {"arithmetic", "1 + 1"}});
    CHECK(value["zones"][0]["class"] == 7);
    CHECK(value["zones"][0]["statistics"]["packets"] == 5);
    CHECK(value["zones"][0]["missing"] == nlohmann::json{"lan0"});
    CHECK(value["zones"][0]["links"] == nlohmann::json::array());
    CHECK(text.starts_with(R"({"cache_capacity":0,"cache_decisions":0,"cache_reason":)"));
    CHECK(text.find(R"("drop":1,"insert_failed":3)") != std::string::npos);
    CHECK(to_json(example()) == text);
}

TEST_CASE("an empty snapshot, and one with bytes that are no text") {
    CHECK(nlohmann::json::parse(to_json({}))["zones"] == nlohmann::json::array());
    CHECK(nlohmann::json::parse(to_json({}))["statistics"] == nlohmann::json::object());
    Snapshot odd;
    odd.degraded = {"interface \xff\xfe is missing"};
    CHECK(nlohmann::json::parse(to_json(odd))["degraded"][0] == "interface \uFFFD\uFFFD is missing");
    CHECK(nlohmann::json::parse(to_json(odd))["state"] == "degraded");
}

TEST_CASE("counters never count as a change, states always do") {
    const auto before = example();
    auto after = before;
    after.conntrack_count = 1;
    after.cache_decisions = 1;
    after.statistics["drop"] = 99;
    after.sizing.clear();
    CHECK(changed(before, after).empty());
    after.pressure = Pressure::warn;
    CHECK(changed(before, after) == std::vector<std::string>{"Pressure"});
    after.degraded = {"one"};
    after.generation = 5;
    CHECK(changed(before, after) == std::vector<std::string>{"State", "Degraded", "Generation", "Pressure"});
    auto more = after;
    more.degraded.emplace_back("two");
    CHECK(changed(after, more) == std::vector<std::string>{"Degraded"});

    auto zone = before.zones[0];
    zone.statistics["packets"] = 6;
    CHECK(changed_properties(zone_properties(), before.zones[0], zone).empty());
    zone.missing.clear();
    CHECK(changed_properties(zone_properties(), before.zones[0], zone).size() == 1);
}

TEST_CASE("types as documented") {
    const auto type_of = [](const char* name) {
        return signature(find_property(manager_properties(), name)->read({}));
    };
    CHECK(std::string("a{st}") == type_of("Statistics"));
    CHECK(std::string("a{sv}") == type_of("Sizing"));
    CHECK(std::string("as") == type_of("Degraded"));
    CHECK(std::string("t") == type_of("Generation"));
    CHECK(std::string("q") == signature(find_property(zone_properties(), "Id")->read({})));
    CHECK(std::string("u") == signature(find_property(zone_properties(), "Class")->read({})));
    CHECK(find_property(zone_properties(), "Nothing") == nullptr);
}

TEST_CASE("zone paths go both ways, and nothing else is a zone") {
    for (const std::string name : {"web", "0-zone_.x", "A", "a/b", "\xc3\xa4"})
        CHECK(zone_name(zone_path(name).c_str()) == name);
    CHECK(zone_path("a-b") == "/org/ctcached1/zone/a_2db");
    for (const char* path : {"/", "/org/ctcached1", "/org/ctcached1/zone", "/org/ctcached1/zone/a/b",
                             "/org/ctcached1/zone/_61", "/other/zone/a"})
        CHECK(zone_name(path).empty());
}

TEST_CASE("strings become UTF-8 that a bus takes") {
    CHECK(to_utf8("plain, \u00e4, \u20ac, \U0001F600") == "plain, \u00e4, \u20ac, \U0001F600");
    CHECK(to_utf8("") == "");
    CHECK(to_utf8(std::string_view("a\0b", 3)) == "a\uFFFDb");
    CHECK(to_utf8("cut \xe2\x82") == "cut \uFFFD\uFFFD");
    CHECK(to_utf8("\xc0\xaf") == "\uFFFD\uFFFD");                     // overlong
    CHECK(to_utf8("\xed\xa0\x80") == "\uFFFD\uFFFD\uFFFD");           // a surrogate
    CHECK(to_utf8("\xf4\x90\x80\x80") == "\uFFFD\uFFFD\uFFFD\uFFFD"); // beyond U+10FFFF
    CHECK(to_utf8("\x80x\xff") == "\uFFFDx\uFFFD");
    CHECK(to_utf8("\xf0\x9f\x98x") == "\uFFFD\uFFFD\uFFFDx");
}
