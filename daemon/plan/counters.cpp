#include "plan/counters.hpp"

#include "plan/build.hpp"

#include <algorithm>

namespace ctcached {

namespace {

using Counts = std::map<std::string, ZoneCount>;

void add(ZoneCount& to, const ZoneCount& from) {
    to.flows += from.flows;
    to.packets += from.packets;
    to.bytes += from.bytes;
}

void subtract(ZoneCount& from, const ZoneCount& what) {
    from.flows -= std::min(from.flows, what.flows);
    from.packets -= std::min(from.packets, what.packets);
    from.bytes -= std::min(from.bytes, what.bytes);
}

// Counts of elements of one set, by zone name.
class Tally {
public:
    explicit Tally(const Ruleset& table) {
        for (const ZoneIdentity& zone : zones_of(table)) names_.emplace(zone.id, zone.name);
    }

    void count(const Set& set, const std::vector<Element>& elements) {
        for (const Element& element : elements) {
            if (element.interval_end) continue;
            if (const auto zone = set.map ? std::nullopt : zone_of(element)) {
                counts[zone->name].flows += element.packets;
            } else if (const auto name = names_.find(element.zone); set.map && name != names_.end()) {
                ZoneCount& zone = counts[name->second];
                zone.packets += element.packets;
                zone.bytes += element.bytes;
                ++zone.elements;
            }
        }
    }

    Counts counts;

private:
    std::map<std::uint16_t, std::string> names_;
};

const Set* find(const Ruleset& table, const std::string& name) {
    const auto set = std::ranges::find(table.sets, name, &Set::name);
    return set == table.sets.end() ? nullptr : &*set;
}

} // namespace

void ZoneCounters::observe(const Ruleset& table) {
    Tally tally(table);
    for (const Set& set : table.sets) tally.count(set, set.elements);
    for (const auto& [zone, before] : live_) {
        const ZoneCount now = tally.counts[zone];
        if (now.flows < before.flows || now.packets < before.packets || now.bytes < before.bytes)
            add(retired_[zone], before);
    }
    live_ = std::move(tally.counts);
}

void ZoneCounters::retire(const std::vector<Change>& changes, const Ruleset& observed) {
    Tally tally(observed);
    for (const Change& change : changes) {
        if (const auto* gone = std::get_if<DeleteElements>(&change)) {
            // The change names the elements; the observed ones have the counters.
            const Set* set = find(observed, gone->set);
            if (!set) continue;
            std::vector<Element> counted;
            std::ranges::set_intersection(set->elements, gone->elements, std::back_inserter(counted));
            tally.count(*set, counted);
        } else if (const auto* dropped = std::get_if<DeleteSet>(&change)) {
            if (const Set* set = find(observed, dropped->name)) tally.count(*set, set->elements);
        } else if (std::holds_alternative<DeleteTable>(change)) {
            for (const Set& set : observed.sets) tally.count(set, set.elements);
        }
    }
    for (const auto& [zone, count] : tally.counts) {
        add(retired_[zone], count);
        subtract(live_[zone], count);
    }
}

ZoneCount ZoneCounters::of(const std::string& zone) const {
    ZoneCount total;
    if (const auto live = live_.find(zone); live != live_.end()) total = live->second;
    if (const auto retired = retired_.find(zone); retired != retired_.end()) add(total, retired->second);
    return total;
}

} // namespace ctcached
