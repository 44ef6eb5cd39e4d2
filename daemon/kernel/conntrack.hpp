// The conntrack table's keeper: its sizes, its settings and how full it is.
#pragma once

#include "base/error.hpp"
#include "kernel/ctnetlink.hpp"
#include "kernel/system.hpp"
#include "plan/sizing.hpp"
#include "policy/model.hpp"

#include <map>
#include <string>
#include <vector>

namespace ctcached {

// What a step did or found, for the journal.
struct Notes {
    std::vector<std::string> information;
    std::vector<std::string> problems; // the degraded state's reasons

    bool operator==(const Notes&) const = default;
};

struct ConntrackState {
    std::uint64_t count = 0;
    std::uint64_t max = 0;
    Pressure pressure = Pressure::ok;
    SizingFacts facts; // as read or written last
    SizingPlan plan;
    std::string drift; // what somebody else set, as a sentence; empty: nothing
    std::map<std::string, std::uint64_t> counters;
};

class Conntrack {
public:
    [[nodiscard]] static Result<Conntrack> open(System system);

    // Writes accounting, timeouts and sizes. What cannot be written is a note, never a failure: the daemon goes on.
    [[nodiscard]] Notes apply(const ConntrackSettings& settings);
    // Looks at the count: the new pressure; takes steps that had to wait; notices values that somebody else has set.
    [[nodiscard]] Notes tick();

    [[nodiscard]] Result<std::uint64_t> flush_zone(std::uint16_t zone) { return netlink_.flush_zone(zone); }
    [[nodiscard]] Pressure pressure() const { return pressure_; }
    [[nodiscard]] Result<ConntrackState> state();

private:
    Conntrack(System system, Ctnetlink netlink) : system_(std::move(system)), netlink_(std::move(netlink)) {}
    [[nodiscard]] Result<SizingFacts> facts();
    void size(Notes& notes);

    System system_;
    Ctnetlink netlink_;
    ConntrackSettings settings_;
    Pressure pressure_ = Pressure::ok;
    SizingPlan plan_;
    SizingFacts facts_;
    std::string told_;  // the last arithmetic and reason that were logged
    std::string drift_; // likewise, of values that somebody else set
};

} // namespace ctcached
