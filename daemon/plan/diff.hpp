// What must change in the kernel's table, as one ordered transaction.
//
// Only elements that differ are touched, and only chains whose rules differ are rewritten. When the skeleton itself
// differs (a base chain or the type of a set), the table is deleted and made anew within the same transaction, which
// loses nothing but its counters.
#pragma once

#include "plan/ruleset.hpp"

#include <optional>
#include <string>
#include <variant>
#include <vector>

namespace ctcached {

struct AddTable {
    bool owner = false;   // NFT_TABLE_F_OWNER
    bool persist = false; // NFT_TABLE_F_PERSIST (Linux >= 6.9)
    bool dormant = false; // NFT_TABLE_F_DORMANT: observed when somebody switched the table off, never wanted
    bool operator==(const AddTable&) const = default;
};
struct DeleteTable {};
struct AddSet {
    Set set; // without elements
};
struct DeleteSet {
    std::string name;
};
struct AddElements {
    std::string set;
    std::vector<Element> elements;
};
struct DeleteElements {
    std::string set;
    std::vector<Element> elements;
};
struct AddChain {
    std::string name;
    std::optional<Hook> hook;
};
struct DeleteChain {
    std::string name;
};
struct FlushChain {
    std::string name;
};
struct AddRule {
    std::string chain;
    Rule rule;
};
using Change = std::variant<AddTable, DeleteTable, AddSet, DeleteSet, AddElements, DeleteElements, AddChain,
                            DeleteChain, FlushChain, AddRule>;

// The kernel's table as the codec decodes it.
struct ObservedTable {
    AddTable flags;
    std::uint32_t owner = 0; // netlink port id of the owner; 0: none
    Ruleset ruleset;
};

// `observed` empty: no such table. A table whose flags differ from `flags` is made anew.
[[nodiscard]] std::vector<Change> diff(const Ruleset& desired, AddTable flags,
                                       const std::optional<ObservedTable>& observed);

// One line per change for the journal and --diff: "+ map ip4_saddr: 10.20.0.0/16 : 12" is made by plan/text; here a
// count where there are many.
[[nodiscard]] std::vector<std::string> describe(const std::vector<Change>& changes);

} // namespace ctcached
