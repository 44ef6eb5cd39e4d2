// Diagnostics: order, duplicates and text.
#include "policy/diagnostics.hpp"

#include <doctest/doctest.h>

using namespace ctcached;

TEST_CASE("files get one index each") {
    Diagnostics diagnostics;
    CHECK(diagnostics.file("a") == 0);
    CHECK(diagnostics.file("b") == 1);
    CHECK(diagnostics.file("a") == 0);
    CHECK(diagnostics.files.size() == 2);
}

TEST_CASE("only errors are errors") {
    Diagnostics diagnostics;
    CHECK(diagnostics.empty());
    diagnostics.warning({}, "careful");
    CHECK_FALSE(diagnostics.has_errors());
    diagnostics.error({}, "wrong");
    CHECK(diagnostics.has_errors());
}

TEST_CASE("sorting goes by place, errors first, and drops repetitions") {
    Diagnostics diagnostics;
    diagnostics.file("a");
    diagnostics.file("b");
    diagnostics.error({1, 1, 1}, "third file place");
    diagnostics.warning({0, 2, 3}, "a warning");
    diagnostics.error({0, 2, 3}, "an error");
    diagnostics.error({0, 2, 3}, "an error");
    diagnostics.error({0, 1, 9}, "first");
    diagnostics.error({0, 0, 0}, "whole file");
    diagnostics.sort();
    REQUIRE(diagnostics.entries.size() == 5);
    CHECK(diagnostics.to_text(diagnostics.entries[0]) == "a: error: whole file");
    CHECK(diagnostics.to_text(diagnostics.entries[1]) == "a:1:9: error: first");
    CHECK(diagnostics.to_text(diagnostics.entries[2]) == "a:2:3: error: an error");
    CHECK(diagnostics.to_text(diagnostics.entries[3]) == "a:2:3: warning: a warning");
    CHECK(diagnostics.to_text(diagnostics.entries[4]) == "b:1:1: error: third file place");
}

TEST_CASE("a place without a known file has a name all the same") {
    CHECK(Diagnostics{}.where({7, 1, 2}) == "<unknown>:1:2");
}
