#include "kernel/conntrack.hpp"

#include <fmt/format.h>

#include <algorithm>

namespace ctcached {

namespace {

const char* sysctl(Knob knob) { return knob == Knob::max ? "max" : "buckets"; }

} // namespace

Result<Conntrack> Conntrack::open(System system) {
    auto netlink = Ctnetlink::open();
    if (!netlink) return std::unexpected(netlink.error());
    return Conntrack(std::move(system), std::move(*netlink));
}

Result<SizingFacts> Conntrack::facts() {
    auto facts = system_.sizing_facts();
    if (!facts) return facts;
    const auto totals = netlink_.totals();
    if (!totals) return std::unexpected(totals.error());
    facts->count = totals->count;
    return facts;
}

void Conntrack::size(Notes& notes) {
    auto now = facts();
    if (!now) {
        notes.problems.push_back(now.error().text);
        return;
    }
    facts_ = *now;
    plan_ = plan_sizing(settings_, facts_, pressure_);
    for (const SizingStep& step : plan_.steps) {
        const auto written = system_.set_conntrack_sysctl(sysctl(step.knob), step.to);
        if (!written) {
            notes.problems.push_back(written.error().text);
            break;
        }
        notes.information.push_back(fmt::format("nf_conntrack_{}: {} -> {}", sysctl(step.knob), step.from, step.to));
        (step.knob == Knob::max ? facts_.max : facts_.buckets) = step.to;
    }
    const std::string told =
        fmt::format("conntrack table: {}{}{}", plan_.arithmetic, plan_.reason.empty() ? "" : "; ", plan_.reason);
    if (told_ != told) notes.information.push_back(told);
    told_ = told;
}

Notes Conntrack::apply(const ConntrackSettings& settings) {
    settings_ = settings;
    Notes notes;
    const auto set = [&](const std::string& name, std::uint64_t value) {
        const auto now = system_.conntrack_sysctl(name);
        if (now && *now == value) return;
        const auto written = system_.set_conntrack_sysctl(name, value);
        if (written)
            notes.information.push_back(fmt::format("nf_conntrack_{} = {}", name, value));
        else
            notes.problems.push_back(written.error().text);
    };
    set("acct", settings.accounting ? 1 : 0);
    for (const TimeoutSetting& timeout : settings.timeouts)
        set(timeout.sysctl, static_cast<std::uint64_t>(timeout.value.count()));
    size(notes);
    return notes;
}

Notes Conntrack::tick() {
    Notes notes;
    const auto totals = netlink_.totals();
    if (!totals) {
        notes.problems.push_back(totals.error().text);
        return notes;
    }
    const Pressure before = pressure_;
    pressure_ = next_pressure(pressure_, totals->count, totals->max, settings_.pressure);
    if (pressure_ != before)
        notes.information.push_back(fmt::format("conntrack pressure: {} -> {} ({} of {} entries)", to_string(before),
                                                to_string(pressure_), totals->count, totals->max));
    std::string drift;
    if (totals->max != 0 && totals->max != facts_.max)
        drift =
            fmt::format("nf_conntrack_max was {} and is {}: somebody else set it; left alone", facts_.max, totals->max);
    if (!drift.empty() && drift != drift_) notes.information.push_back(drift);
    drift_ = std::move(drift);
    // A resize waits for a calm table; growth may be due because the table is not calm.
    if (drift_.empty() && facts_.writable && !plan_.reason.empty() &&
        (pressure_ != before || pressure_ == Pressure::ok))
        size(notes);
    return notes;
}

Result<ConntrackState> Conntrack::state() {
    const auto totals = netlink_.totals();
    if (!totals) return std::unexpected(totals.error());
    auto counters = netlink_.cpu_stats();
    if (!counters) return std::unexpected(counters.error());
    return ConntrackState{.count = totals->count,
                          .max = totals->max != 0 ? totals->max : facts_.max,
                          .pressure = pressure_,
                          .facts = facts_,
                          .plan = plan_,
                          .drift = drift_,
                          .counters = std::move(*counters)};
}

} // namespace ctcached
