// From documents to the table; what links mean; and counters that only grow.
#include "plan/build.hpp"
#include "plan/compile.hpp"
#include "plan/counters.hpp"
#include "plan/text.hpp"

#include <doctest/doctest.h>
#include <fmt/format.h>

#include <algorithm>

using namespace ctcached;

namespace {

Compiled compiled(const std::string& text, const ZoneTable& remembered, Diagnostics& diagnostics) {
    const Source source{"test.yaml", text};
    return compile({&source, 1}, remembered, diagnostics);
}

Compiled valid(const std::string& text, const ZoneTable& remembered = {}) {
    Diagnostics diagnostics;
    Compiled result = compiled(text, remembered, diagnostics);
    for (const Diagnostic& entry : diagnostics.entries) INFO(diagnostics.to_text(entry));
    REQUIRE_FALSE(diagnostics.has_errors());
    return result;
}

const std::string two_zones = "version: 1\n"
                              "zones:\n"
                              "  - name: web\n"
                              "    match: [{ protocol: tcp, ports: 80 }]\n"
                              "  - name: lan\n"
                              "    match: [{ interfaces: [lan0, 'vlan*'] }]\n";

Set* find(Ruleset& table, const std::string& name) { return &*std::ranges::find(table.sets, name, &Set::name); }

} // namespace

TEST_CASE("ids are remembered, and errors leave nothing") {
    CHECK(valid(two_zones).ids.zones == ZoneTable{{"web", 1, Direction::original}, {"lan", 2, Direction::original}});
    CHECK(valid(two_zones, {{"lan", 7, Direction::original}}).ids.zones.at(1).id == 7);
    Diagnostics diagnostics;
    CHECK(compiled("version: 1\nzones: 5\n", {}, diagnostics).ids.zones.empty());
    CHECK(diagnostics.has_errors());
}

TEST_CASE("a remembered direction is kept while the zones allow it") {
    const std::string all_tcp = "version: 1\nzones:\n  - name: tcp\n    match: [{ protocol: tcp }]\n";
    const ZoneTable both{{"tcp", 3, Direction::both}};
    const Compiled kept = valid(all_tcp, both);
    CHECK(kept.ids.zones.at(0).direction == Direction::both);
    CHECK(to_text(kept.ruleset).find("ct zone set meta l4proto map @proto_both") != std::string::npos);

    Diagnostics diagnostics;
    const Compiled lost = compiled("version: 1\nzones:\n  - name: web\n    match: [{ protocol: tcp, ports: 80 }]\n"
                                   "  - name: tcp\n    match: [{ protocol: tcp }]\n",
                                   both, diagnostics);
    CHECK_FALSE(diagnostics.has_errors());
    CHECK(diagnostics.entries.size() == 1);
    CHECK(lost.ids.zones.at(1) == ZoneIdentity{"tcp", 3, Direction::original});
    CHECK(lost.ids.remember.at(1).direction == Direction::original);
}

TEST_CASE("links of a zone") {
    const Compiled result = valid(two_zones);
    const std::vector<std::string> links{"lo", "vlan1", "vlan20"};
    const ZoneLinks lan = links_of(result.policy.zones[1], links);
    CHECK(lan.present == std::vector<std::string>{"vlan1", "vlan20"});
    CHECK(lan.missing == std::vector<std::string>{"lan0"});
    Diagnostics diagnostics;
    lint_links(result.policy, links, diagnostics);
    CHECK(diagnostics.entries.size() == 1);
}

TEST_CASE("counters only grow") {
    Compiled result = valid(two_zones);
    Ruleset table = result.ruleset;
    const auto count = [&](std::uint64_t packets, std::uint64_t flows) {
        Element& port = find(table, "proto_port")->elements.at(0);
        port.packets = packets;
        port.bytes = packets * 100;
        find(table, "zones")->elements.at(0).packets = flows;
    };
    ZoneCounters counters;
    count(10, 2);
    counters.observe(table);
    CHECK(counters.of("web") == ZoneCount{2, 10, 1000, 1});
    CHECK(counters.of("nobody") == ZoneCount{});

    // A reload deletes the element: what it had stays.
    counters.retire({DeleteElements{"proto_port", result.ruleset.sets.at(1).elements}}, table);
    find(table, "proto_port")->elements.clear();
    counters.observe(table);
    CHECK(counters.of("web") == ZoneCount{2, 10, 1000, 0});

    // Someone deletes the table, it is made anew: its counters begin at 0.
    table = result.ruleset;
    counters.observe(table);
    CHECK(counters.of("web") == ZoneCount{2, 10, 1000, 1});
    count(5, 1);
    counters.observe(table);
    CHECK(counters.of("web") == ZoneCount{3, 15, 1500, 1});
}
