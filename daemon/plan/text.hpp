// The table in nft's own words.
//
// Made from the bytes that go to the kernel or came from it, never from the policy, so what --print shows is what would
// be applied. nft(8) accepts the text except for the rules of the chains quoted4 and quoted6: its language has no way
// to look a raw payload (@th,...) up in a typed map, though it lists such rules in just this form.
#pragma once

#include "plan/diff.hpp"
#include "plan/ruleset.hpp"
#include "plan/zones.hpp"

#include <string>
#include <vector>

namespace ctcached {

// "# zone web id 10 original", one line per zone: a comment to nft(8).
[[nodiscard]] std::string to_text(const ZoneTable& zones);

// "table inet ctcached { ... }", sets and chains in order of name, elements in order of key; no counters.
[[nodiscard]] std::string to_text(const Ruleset& ruleset);

// One line per change, "+ map saddr4: 10.20.0.0/16 : 12"; for --diff.
[[nodiscard]] std::string to_text(const std::vector<Change>& changes, const Ruleset& desired,
                                  const std::optional<ObservedTable>& observed);

} // namespace ctcached
