// The table from layers, its text, and what changes between two of them.
#include "plan/build.hpp"
#include "plan/diff.hpp"
#include "plan/text.hpp"

#include <doctest/doctest.h>
#include <fmt/format.h>

#include <algorithm>

using namespace ctcached;

namespace {

Layer ports_layer(std::vector<std::pair<std::uint16_t, std::uint16_t>> port_to_zone) {
    Layer layer{.name = "proto_port", .fields = {{FieldKind::protocol, 0}, {FieldKind::port, 0}}};
    for (const auto& [port, zone] : port_to_zone) layer.entries.push_back({{{6, 6}, {port, port}}, zone});
    return layer;
}

Layer prefix_layer(std::vector<std::pair<Interval, std::uint16_t>> ranges) {
    Layer layer{.name = "saddr4_range", .fields = {{FieldKind::source4, 0}}, .interval = true};
    for (const auto& [range, zone] : ranges) layer.entries.push_back({{range}, zone});
    return layer;
}

const ZoneTable zones{{"web", 10, Direction::original}, {"dns", 11, Direction::both}};

Ruleset table(const std::vector<Layer>& layers) { return build_ruleset(layers, zones); }

ObservedTable observed(const Ruleset& ruleset, AddTable flags = {}) { return {flags, flags.owner ? 7U : 0U, ruleset}; }

std::vector<std::string> lines(const Ruleset& from, const Ruleset& to) {
    return describe(diff(to, {}, observed(from)));
}

using Lines = std::vector<std::string>;

} // namespace

TEST_CASE("nothing changed, nothing to do") {
    const Ruleset ruleset = table({ports_layer({{80, 10}})});
    CHECK(diff(ruleset, {}, observed(ruleset)).empty());
    CHECK(diff(ruleset, {.owner = true}, observed(ruleset, {.owner = true})).empty());
}

TEST_CASE("counters are no difference") {
    const Ruleset desired = table({ports_layer({{80, 10}})});
    Ruleset counted = desired;
    for (Set& set : counted.sets)
        for (Element& element : set.elements) element.packets = element.bytes = 5;
    CHECK(diff(desired, {}, observed(counted)).empty());
}

TEST_CASE("one element changed is one element changed") {
    const Ruleset one = table({ports_layer({{80, 10}, {443, 10}})});
    CHECK(lines(one, table({ports_layer({{80, 10}, {443, 10}, {8080, 10}})})) == Lines{"proto_port: 1 element added"});
    CHECK(lines(one, table({ports_layer({{80, 10}})})) == Lines{"proto_port: 1 element removed"});
    CHECK(lines(one, table({ports_layer({{80, 10}, {443, 11}})})) ==
          Lines{"proto_port: 1 element removed", "proto_port: 1 element added"});
}

TEST_CASE("a key leaves before it comes back with another zone") {
    const auto changes = diff(table({ports_layer({{80, 11}})}), {}, observed(table({ports_layer({{80, 10}})})));
    REQUIRE(changes.size() == 2);
    CHECK(std::holds_alternative<DeleteElements>(changes[0]));
    CHECK(std::holds_alternative<AddElements>(changes[1]));
}

TEST_CASE("a new layer rewrites the chains and leaves the other maps alone") {
    const Ruleset one = table({ports_layer({{80, 10}})});
    const Ruleset two = table({ports_layer({{80, 10}}), prefix_layer({{{0x0a000000, 0x0a00ffff}, 11}})});
    const auto changes = diff(two, {}, observed(one));
    CHECK(std::ranges::none_of(changes,
                               [](const Change& change) { return std::holds_alternative<DeleteTable>(change); }));
    CHECK(std::ranges::count_if(changes, [](const Change& change) { return std::holds_alternative<AddSet>(change); }) ==
          1);
    for (const Change& change : changes)
        if (const auto* elements = std::get_if<AddElements>(&change)) CHECK(elements->set == "saddr4_range");
    const auto back = diff(one, {}, observed(two));
    REQUIRE(std::holds_alternative<DeleteSet>(back.back()));
    CHECK(std::get<DeleteSet>(back.back()).name == "saddr4_range");
}

TEST_CASE("another skeleton or other flags make the table anew, in one transaction") {
    const Ruleset ruleset = table({ports_layer({{80, 10}})});
    Ruleset other = ruleset;
    std::ranges::find(other.chains, std::string("prerouting"), &Chain::name)->hook->priority = -150;
    for (const auto& changes : {diff(ruleset, {}, observed(other)), diff(ruleset, {.owner = true}, observed(ruleset)),
                                diff(ruleset, {}, observed(ruleset, {.dormant = true}))}) {
        REQUIRE(changes.size() > 2);
        CHECK(std::holds_alternative<DeleteTable>(changes[0]));
        CHECK(std::holds_alternative<AddTable>(changes[1]));
    }
    Ruleset expiring = ruleset;
    expiring.sets[0].foreign = "timeout 30s";
    CHECK(std::holds_alternative<DeleteTable>(diff(ruleset, {}, observed(expiring)).at(0)));
}

TEST_CASE("an orphan is taken over as it is") {
    const Ruleset ruleset = table({ports_layer({{80, 10}})});
    const auto changes = diff(ruleset, {.owner = true, .persist = true}, observed(ruleset, {.persist = true}));
    REQUIRE(changes.size() == 1);
    CHECK(std::get<AddTable>(changes[0]) == AddTable{.owner = true, .persist = true});
}

TEST_CASE("what others added goes") {
    const Ruleset ruleset = table({ports_layer({{80, 10}})});
    Ruleset extended = ruleset;
    extended.chains.push_back({"evil", Hook{"filter", 0, -250}, {{Verdict{VerdictKind::accept, {}}}}});
    extended.sets.push_back({.name = "junk", .key_type = 7, .key_bytes = 4});
    CHECK(lines(extended, ruleset) == Lines{"chain evil emptied", "chain evil removed", "map junk removed"});
    Ruleset foreign_rule = ruleset;
    foreign_rule.chains[4].rules.push_back({Foreign{"counter"}});
    CHECK(lines(foreign_rule, ruleset).front() == "chain output emptied");
}

TEST_CASE("a range is two elements, and the last address needs no end") {
    const Ruleset ruleset = table({prefix_layer({{{0x0a000000, 0x0a00ffff}, 10}, {{0xff000000, 0xffffffff}, 11}})});
    const auto map = std::ranges::find(ruleset.sets, std::string("saddr4_range"), &Set::name);
    REQUIRE(map->elements.size() == 3);
    CHECK(map->elements[0].key == Bytes("\x0a\0\0\0", 4));
    CHECK(map->elements[1].interval_end);
    CHECK(map->elements[1].key == Bytes("\x0a\x01\0\0", 4));
    CHECK(to_text(ruleset).find("10.0.0.0/16 : 10,\n\t\t\t     255.0.0.0/8 : 11") != std::string::npos);
}

TEST_CASE("zones are read back from the table") { CHECK(zones_of(table({})) == zones); }

TEST_CASE("a change reads like the table") {
    const Ruleset one = table({ports_layer({{80, 10}}), prefix_layer({{{0x0a000000, 0x0a00ffff}, 10}})});
    const Ruleset two = table({ports_layer({{80, 10}, {53, 11}}), prefix_layer({{{0x0a000000, 0x0a01ffff}, 10}})});
    const auto changes = diff(two, {}, observed(one));
    CHECK(to_text(changes, two, observed(one)) == "- map saddr4_range: 10.0.0.0/16 : 10\n"
                                                  "+ map proto_port: tcp . 53 : 11\n"
                                                  "+ map saddr4_range: 10.0.0.0/15 : 10\n");
}

TEST_CASE("a set of somebody else's making makes the table anew") {
    const Ruleset ruleset = table({ports_layer({{80, 10}})});
    Ruleset extended = ruleset;
    extended.sets.push_back({.name = "__set0", .key_type = 12, .key_bytes = 1, .foreign = "anonymous"});
    CHECK(std::holds_alternative<DeleteTable>(diff(ruleset, {}, observed(extended)).at(0)));
}
