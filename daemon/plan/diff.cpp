#include "plan/diff.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <map>

namespace ctcached {

namespace {

const Set* find(const Ruleset& ruleset, const std::string& set) {
    const auto at = std::ranges::find(ruleset.sets, set, &Set::name);
    return at == ruleset.sets.end() ? nullptr : &*at;
}

const Chain* find_chain(const Ruleset& ruleset, const std::string& chain) {
    const auto at = std::ranges::find(ruleset.chains, chain, &Chain::name);
    return at == ruleset.chains.end() ? nullptr : &*at;
}

bool same_type(const Set& a, const Set& b) {
    return a.key_type == b.key_type && a.key_bytes == b.key_bytes && a.map == b.map && a.interval == b.interval &&
           a.foreign == b.foreign;
}

Set without_elements(const Set& set) {
    Set bare = set;
    bare.elements.clear();
    return bare;
}

std::string describe_new(const std::vector<Change>& changes) {
    std::size_t sets = 0;
    std::size_t elements = 0;
    for (const Change& change : changes) {
        sets += std::holds_alternative<AddSet>(change) ? 1 : 0;
        if (const auto* added = std::get_if<AddElements>(&change))
            elements += static_cast<std::size_t>(std::ranges::count(added->elements, false, &Element::interval_end));
    }
    if (sets == 0) return "table taken over";
    return fmt::format("table made: {} sets and maps with {} elements", sets, elements);
}

// False for what cannot be changed in place: the hook of a base chain, the type of a set, and sets that somebody else
// put here (one without a name goes with the rule that uses it and cannot be deleted for itself).
bool same_skeleton(const Ruleset& desired, const Ruleset& observed) {
    const auto set_fits = [&](const Set& set) {
        const Set* now = find(observed, set.name);
        return !now || same_type(set, *now);
    };
    const auto chain_fits = [&](const Chain& chain) {
        const Chain* now = find_chain(observed, chain.name);
        return !now || chain.hook == now->hook;
    };
    return std::ranges::all_of(observed.sets, [](const Set& set) { return set.foreign.empty(); }) &&
           std::ranges::all_of(desired.sets, set_fits) && std::ranges::all_of(desired.chains, chain_fits);
}

void append_set(const Set& set, std::vector<Change>& changes) {
    changes.emplace_back(AddSet{without_elements(set)});
    if (!set.elements.empty()) changes.emplace_back(AddElements{set.name, set.elements});
}

// Removals go into `changes` at once, additions into `additions`: a key may move from one zone to another, and the
// kernel wants it gone before it comes back.
void append_element_changes(const Set& desired, const Set& observed, std::vector<Change>& changes,
                            std::vector<Change>& additions) {
    DeleteElements gone{desired.name, {}};
    AddElements added{desired.name, {}};
    std::ranges::set_difference(observed.elements, desired.elements, std::back_inserter(gone.elements));
    std::ranges::set_difference(desired.elements, observed.elements, std::back_inserter(added.elements));
    if (!gone.elements.empty()) changes.emplace_back(std::move(gone));
    if (!added.elements.empty()) additions.emplace_back(std::move(added));
}

void append_rules(const Chain& chain, std::vector<Change>& changes) {
    for (const Rule& rule : chain.rules) changes.emplace_back(AddRule{chain.name, rule});
}

std::vector<Change> everything(const Ruleset& desired, AddTable flags) {
    std::vector<Change> changes{flags};
    for (const Set& set : desired.sets) append_set(set, changes);
    for (const Chain& chain : desired.chains) changes.emplace_back(AddChain{chain.name, chain.hook});
    for (const Chain& chain : desired.chains) append_rules(chain, changes);
    return changes;
}

std::vector<Change> in_place(const Ruleset& desired, const Ruleset& observed) {
    std::vector<Change> changes;
    std::vector<Change> additions;
    for (const Set& set : desired.sets)
        if (const Set* now = find(observed, set.name))
            append_element_changes(set, *now, changes, additions);
        else
            append_set(set, additions);
    std::ranges::move(additions, std::back_inserter(changes));

    for (const Chain& chain : desired.chains)
        if (!find_chain(observed, chain.name)) changes.emplace_back(AddChain{chain.name, chain.hook});
    // All old rules go before the first new one comes, so that no rule refers to what is about to be deleted.
    std::vector<const Chain*> rewritten;
    for (const Chain& chain : desired.chains) {
        const Chain* now = find_chain(observed, chain.name);
        if (now && now->rules == chain.rules) continue;
        if (now) changes.emplace_back(FlushChain{chain.name});
        rewritten.push_back(&chain);
    }
    for (const Chain& now : observed.chains)
        if (!find_chain(desired, now.name)) changes.emplace_back(FlushChain{now.name});
    for (const Chain* chain : rewritten) append_rules(*chain, changes);
    for (const Chain& now : observed.chains)
        if (!find_chain(desired, now.name)) changes.emplace_back(DeleteChain{now.name});
    for (const Set& now : observed.sets)
        if (!find(desired, now.name)) changes.emplace_back(DeleteSet{now.name});
    return changes;
}

} // namespace

std::vector<Change> diff(const Ruleset& desired, AddTable flags, const std::optional<ObservedTable>& observed) {
    if (!observed) return everything(desired, flags);
    // A table that outlived its owner is taken over by naming it with the flags that it had (nf_tables_updtable).
    const bool orphan =
        observed->flags.persist && !observed->flags.owner && flags == AddTable{.owner = true, .persist = true};
    if ((observed->flags != flags && !orphan) || !same_skeleton(desired, observed->ruleset)) {
        std::vector<Change> changes{DeleteTable{}};
        std::ranges::move(everything(desired, flags), std::back_inserter(changes));
        return changes;
    }
    std::vector<Change> changes = in_place(desired, observed->ruleset);
    if (orphan) changes.insert(changes.begin(), flags);
    return changes;
}

std::vector<std::string> describe(const std::vector<Change>& changes) {
    struct Describer {
        std::vector<std::string> lines;
        std::map<std::string, std::size_t> rules;

        void operator()(const AddTable&) {}
        void operator()(const DeleteTable&) { lines.emplace_back("table removed"); }
        void operator()(const AddSet& add) {
            lines.push_back(fmt::format("{} {} added", add.set.map ? "map" : "set", add.set.name));
        }
        void operator()(const DeleteSet& gone) { lines.push_back(fmt::format("map {} removed", gone.name)); }
        void operator()(const AddElements& add) { count(add.set, add.elements, "added"); }
        void operator()(const DeleteElements& gone) { count(gone.set, gone.elements, "removed"); }
        void operator()(const AddChain& add) { lines.push_back(fmt::format("chain {} added", add.name)); }
        void operator()(const DeleteChain& gone) { lines.push_back(fmt::format("chain {} removed", gone.name)); }
        void operator()(const FlushChain& flush) { lines.push_back(fmt::format("chain {} emptied", flush.name)); }
        void operator()(const AddRule& add) { ++rules[add.chain]; }
        void count(const std::string& set, const std::vector<Element>& elements, const char* verb) {
            const auto ends = std::ranges::count(elements, true, &Element::interval_end);
            const auto starts = elements.size() - static_cast<std::size_t>(ends);
            const auto shown = starts != 0 ? starts : elements.size();
            lines.push_back(fmt::format("{}: {} element{} {}", set, shown, shown == 1 ? "" : "s", verb));
        }
    };
    // A table that is made from nothing is one event, not a hundred.
    if (std::ranges::any_of(changes, [](const Change& change) { return std::holds_alternative<AddTable>(change); }))
        return {describe_new(changes)};
    Describer describer;
    for (const Change& change : changes) std::visit(describer, change);
    for (const auto& [chain, count] : describer.rules)
        describer.lines.push_back(fmt::format("chain {}: {} rule{} added", chain, count, count == 1 ? "" : "s"));
    return describer.lines;
}

} // namespace ctcached
