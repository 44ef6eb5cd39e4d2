// Sizes as tables: what the machine is, what the policy says, what is done and how it is explained.

#include "plan/sizing.hpp"

#include <doctest/doctest.h>
#include <fmt/format.h>

using namespace ctcached;

namespace {

constexpr std::uint64_t mib = 1U << 20U;
constexpr std::uint64_t m = 1'000'000;

// The settings that matter here, each with its default.
struct Wish {
    std::optional<std::uint64_t> max = {};
    std::optional<std::uint64_t> buckets = {};
    std::optional<std::uint64_t> memory_bytes = {};
    Share memory = {625};

    operator ConntrackSettings() const { // NOLINT(google-explicit-constructor): stands for it in the tables
        ConntrackSettings settings;
        settings.max = max;
        settings.buckets = buckets;
        settings.memory_bytes = memory_bytes;
        settings.memory = memory;
        return settings;
    }
};

SizingFacts facts(std::uint64_t memory_mib, std::uint64_t max, std::uint64_t buckets, std::uint64_t count = 0) {
    return {.memory_bytes = memory_mib * mib, .object_measured = true, .count = count, .max = max, .buckets = buckets};
}

std::string text(const std::vector<SizingStep>& steps) {
    std::string result;
    for (const auto& [knob, from, to] : steps)
        result += fmt::format("{} {}>{} ", knob == Knob::max ? "max" : "buckets", from, to);
    return result;
}

} // namespace

TEST_CASE("the target and its arithmetic") {
    struct Case {
        Wish settings;
        SizingFacts facts;
        std::uint64_t max;
        std::uint64_t buckets;
        std::uint64_t budget;
        std::uint64_t entry;
        std::string arithmetic;
    };
    const std::vector<Case> cases = {
        {{},
         facts(24'105, 0, 0),
         2'097'152,
         2'097'152,
         1'579'745'280,
         392,
         "6.25 % of 24,105 MiB = 1,507 MiB; 256 + 128 + 8 B an entry = 392 B; 4,029,962 -> 2^21 = 2,097,152 entries "
         "and "
         "buckets"},
        {{.memory = {700}},
         facts(4096, 0, 0),
         524'288,
         524'288,
         300'647'710,
         392,
         "7 % of 4,096 MiB = 287 MiB; 256 + 128 + 8 B an entry = 392 B; 766,958 -> 2^19 = 524,288 entries and buckets"},
        {{.memory_bytes = 64 * mib},
         facts(4096, 0, 0),
         131'072,
         131'072,
         64 * mib,
         392,
         "64 MiB of 4,096 MiB; 256 + 128 + 8 B an entry = 392 B; 171,196 -> 2^17 = 131,072 entries and buckets"},
        {{},
         facts(128, 0, 0),
         65'536,
         65'536,
         8 * mib,
         392,
         "6.25 % of 128 MiB = 8 MiB; 256 + 128 + 8 B an entry = 392 B; 21,399 -> 2^16 = 65,536 entries and buckets, "
         "the "
         "least"},
        {{.memory = {10'000}},
         facts(1U << 20U, 0, 0),
         33'554'432,
         33'554'432,
         mib << 20U,
         392,
         "100 % of 1,048,576 MiB = 1,048,576 MiB; 256 + 128 + 8 B an entry = 392 B; 2,804,876,601 -> 2^25 = 33,554,432 "
         "entries and buckets, the most"},
        {{.buckets = 1'000'000},
         facts(4096, 0, 0),
         524'288,
         1'000'448,
         256 * mib,
         400,
         "6.25 % of 4,096 MiB = 256 MiB, less 8 MiB for 1,000,448 buckets as the policy says; 256 + 128 B an entry = "
         "384 "
         "B; 678,208 -> 2^19 = 524,288 entries"},
        {{.max = 100'000},
         facts(4096, 0, 0),
         100'000,
         131'072,
         0,
         395,
         "100,000 entries as the policy says, 131,072 buckets; 256 + 128 B an entry and 8 B a bucket = 38 MiB when "
         "full"},
        {{.max = 100'000, .buckets = 512},
         facts(4096, 0, 0),
         100'000,
         512,
         0,
         385,
         "100,000 entries as the policy says, 512 buckets likewise; 256 + 128 B an entry and 8 B a bucket = 37 MiB "
         "when "
         "full"},
        // What no policy should say, but a value may hold.
        {{.max = 0, .buckets = 0},
         facts(4096, 0, 0),
         1,
         0,
         0,
         384,
         "1 entries as the policy says, 0 buckets likewise; 256 + 128 B an entry and 8 B a bucket = 0 MiB when full"},
    };
    for (const auto& row : cases) {
        const auto plan = plan_sizing(row.settings, row.facts, Pressure::ok);
        CHECK(plan.max == row.max);
        CHECK(plan.buckets == row.buckets);
        CHECK(plan.budget_bytes == row.budget);
        CHECK(plan.entry_bytes == row.entry);
        CHECK(plan.arithmetic == row.arithmetic);
    }
    auto guessed = facts(4096, 0, 0);
    guessed.object_measured = false;
    CHECK(
        plan_sizing({}, guessed, Pressure::ok).arithmetic ==
        "6.25 % of 4,096 MiB = 256 MiB; 256 (assumed) + 128 + 8 B an entry = 392 B; 684,784 -> 2^19 = 524,288 entries "
        "and buckets");
}

TEST_CASE("steps") {
    const auto auto_2m = facts(24'105, 0, 0); // 2,097,152 of both
    const auto now = [&](std::uint64_t max, std::uint64_t buckets, std::uint64_t count = 0) {
        auto result = auto_2m;
        result.max = max;
        result.buckets = buckets;
        result.count = count;
        return result;
    };
    const Wish automatic;
    const Wish fixed{.max = 100'000, .buckets = 102'400};
    struct Case {
        const char* what;
        Wish settings;
        SizingFacts facts;
        Pressure pressure;
        std::string steps;
        std::string reason;
    };
    using enum Pressure;
    const std::vector<Case> cases = {
        {"there already", automatic, now(2'097'152, 2'097'152), ok, "", ""},
        {"grows: buckets first", automatic, now(262'144, 65'536), ok, "buckets 65536>2097152 max 262144>2097152 ", ""},
        {"shrinks: max first", automatic, now(4'194'304, 4'194'304), ok, "max 4194304>2097152 buckets 4194304>2097152 ",
         ""},
        {"crossed: growing buckets first", automatic, now(4'194'304, 65'536), ok,
         "buckets 65536>2097152 max 4194304>2097152 ", ""},
        {"crossed: shrinking buckets last", automatic, now(65'536, 4'194'304), ok,
         "max 65536>2097152 buckets 4194304>2097152 ", ""},
        {"one knob alone", automatic, now(2'097'152, 65'536), ok, "buckets 65536>2097152 ", ""},
        {"12.5 % below is near enough", automatic, now(1'864'136, 1'864'136), ok, "", ""},
        {"a little more is not", automatic, now(1'864'134, 1'864'134), ok,
         "buckets 1864134>2097152 max 1864134>2097152 ", ""},
        {"12.5 % above is near enough", automatic, now(2'396'745, 2'396'745), ok, "", ""},
        {"a little more above is not", automatic, now(2'396'760, 2'396'760), ok,
         "max 2396760>2097152 buckets 2396760>2097152 ", ""},
        {"a number of the policy is taken exactly", fixed, now(100'001, 102'400), ok, "max 100001>100000 ", ""},
        {"no maximum at all is far from any", automatic, now(0, 2'097'152), ok, "max 0>2097152 ", ""},

        {"the count holds max up", fixed, now(200'000, 102'400, 120'000), ok, "max 200000>150000 ",
         "nf_conntrack_max stays above 1.25 x 120,000 present entries"},
        {"the count holds both up, buckets in whole pages", fixed, now(200'000, 204'800, 120'000), ok,
         "max 200000>150000 buckets 204800>150016 ",
         "nf_conntrack_max stays above 1.25 x 120,000 present entries; nf_conntrack_buckets stays above 1.25 x 120,000 "
         "present entries"},
        {"the count keeps it where it is, never raises it", fixed, now(140'000, 102'400, 120'000), ok, "",
         "nf_conntrack_max stays above 1.25 x 120,000 present entries"},
        {"1.25 x is enough", fixed, now(200'000, 102'400, 80'000), ok, "max 200000>100000 ", ""},
        {"one more entry is not", fixed, now(200'000, 102'400, 80'001), ok, "max 200000>100002 ",
         "nf_conntrack_max stays above 1.25 x 80,001 present entries"},
        {"a count above max, without a limit before", fixed, now(0, 102'400, 120'000), ok, "max 0>150000 ",
         "nf_conntrack_max stays above 1.25 x 120,000 present entries"},

        {"pressure: a larger max alone helps", automatic, now(262'144, 65'536, 250'000), critical,
         "max 262144>2097152 ", "nf_conntrack_buckets waits until the table is no longer under pressure"},
        {"pressure: warn is pressure", automatic, now(262'144, 2'097'152, 200'000), warn, "max 262144>2097152 ", ""},
        {"pressure: buckets wait", automatic, now(2'097'152, 65'536, 2 * m), warn, "",
         "nf_conntrack_buckets waits until the table is no longer under pressure"},
        {"pressure: nothing shrinks", automatic, now(4'194'304, 4'194'304, 3 * m), warn, "",
         "nf_conntrack_max waits until the table is no longer under pressure; nf_conntrack_buckets waits until the "
         "table "
         "is no longer under pressure"},
        {"pressure: there already", automatic, now(2'097'152, 2'097'152, 2 * m), critical, "", ""},
    };
    for (const auto& row : cases) {
        CAPTURE(row.what);
        const auto plan = plan_sizing(row.settings, row.facts, row.pressure);
        CHECK(text(plan.steps) == row.steps);
        CHECK(plan.reason == row.reason);
    }

    auto elsewhere = now(262'144, 65'536);
    elsewhere.writable = false;
    const auto plan = plan_sizing(automatic, elsewhere, ok);
    CHECK(plan.steps.empty());
    CHECK(plan.reason.find("read-only") != std::string::npos);
    CHECK(plan.max == 2'097'152);
    elsewhere.max = elsewhere.buckets = 2'097'152;
    CHECK(plan_sizing(automatic, elsewhere, ok).reason.empty());
}

TEST_CASE("no input makes a step that the kernel refuses or that turns the wrong way") {
    const std::vector<std::uint64_t> numbers = {0, 1, 511, 65'536, 100'000, 2'147'483'647, 1ULL << 40U, ~0ULL >> 8U};
    for (const auto memory : numbers)
        for (const auto max : numbers)
            for (const auto buckets : numbers)
                for (const auto count : numbers)
                    for (const auto wanted : numbers) {
                        const SizingFacts state{.memory_bytes = memory, .count = count, .max = max, .buckets = buckets};
                        const Wish settings[] = {{},
                                                 {.memory_bytes = wanted},
                                                 {.max = wanted},
                                                 {.buckets = wanted},
                                                 {.max = wanted, .buckets = wanted}};
                        for (const auto& setting : settings) {
                            const auto plan = plan_sizing(setting, state, Pressure::ok);
                            REQUIRE(plan.max >= 1);
                            REQUIRE(plan.max <= 0x7fffffff);
                            REQUIRE(plan.buckets <= 1U << 27U);
                            for (const auto& step : plan.steps) {
                                REQUIRE(step.from != step.to);
                                const auto goal = step.knob == Knob::max ? plan.max : plan.buckets;
                                if (step.from != 0) REQUIRE((step.to > step.from) == (goal > step.from));
                            }
                        }
                    }
}

TEST_CASE("pressure has hysteresis") {
    const PressureSettings settings; // warn 75 %, critical 90 %, clear 65 %
    struct Case {
        const char* what;
        std::vector<std::uint64_t> counts; // of a maximum of 1,000
        std::string states;                // o, w, c
    };
    const std::vector<Case> cases = {
        {"quiet", {0, 100, 649, 749, 0}, "ooooo"},
        {"up at the thresholds exactly", {749, 750, 899, 900, 1000}, "owwcc"},
        {"down only below clear", {750, 700, 650, 649, 650}, "wwwoo"},
        {"from critical to warn below warn", {900, 899, 750, 749, 650, 649}, "cccwwo"},
        {"swinging around warn changes once", {749, 751, 749, 751, 749, 751}, "owwwww"},
        {"swinging around critical changes once", {899, 901, 899, 901}, "wccc"},
        {"swinging around clear changes once", {751, 651, 649, 651, 649}, "wwooo"},
        {"a jump is one change", {0, 1000, 0}, "oco"},
        {"over the maximum", {2000, 700, 600}, "cwo"},
    };
    for (const auto& row : cases) {
        CAPTURE(row.what);
        auto state = Pressure::ok;
        std::string states;
        for (const auto count : row.counts) states += to_string(state = next_pressure(state, count, 1000, settings))[0];
        CHECK(states == row.states);
    }
    CHECK(next_pressure(Pressure::critical, 1000, 0, settings) == Pressure::ok); // no limit, no pressure
    CHECK(next_pressure(Pressure::ok, ~0ULL, ~0ULL, settings) == Pressure::critical);
    CHECK(to_string(Pressure::ok) == "ok");
    CHECK(to_string(Pressure::warn) == "warn");
    CHECK(to_string(Pressure::critical) == "critical");
}
