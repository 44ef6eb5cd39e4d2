// From memory to the two knobs.
//
// An entry is planned with the extension area whether accounting is on or not: anything that adds an extension brings
// the whole preallocation (nf_ct_ext_add), and besides accounting that may be a masqueraded address, a listener to
// conntrack events, a helper, a label or this project's module; none of them asks us before it appears.
//
// What is asked for and what can be done now are two things. plan.max and plan.buckets are the first and depend on the
// policy and the memory only; the steps are the second:
//   - an automatic number follows its target only beyond 12.5 %, so that a changed MemTotal does not cause a resize;
//     a number that the policy names is taken exactly;
//   - nothing shrinks below 1.25 x the present count: a maximum just above the count is a table that drops;
//   - a resize of the buckets holds every conntrack lock (nf_conntrack_hash_resize), so it waits while the table is
//     under pressure; a larger maximum is one store and just what helps then.

#include "plan/sizing.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <iterator>
#include <limits>

namespace ctcached {

namespace {

constexpr std::uint64_t largest_max = 0x7fffffff;    // SYSCTL_INT_MAX, net/netfilter/nf_conntrack_standalone.c
constexpr std::uint64_t largest_buckets = 1U << 27U; // below INT_MAX / 8, nf_ct_alloc_hashtable()
constexpr std::uint64_t bucket_granularity = 512;    // it rounds up to whole pages: 4,096 / 8
constexpr std::uint64_t unlimited = std::numeric_limits<std::uint64_t>::max();

// 1234567 -> "1,234,567"
std::string grouped(std::uint64_t value) {
    auto digits = fmt::to_string(value);
    for (auto place = std::ssize(digits) - 3; place > 0; place -= 3)
        digits.insert(static_cast<std::size_t>(place), 1, ',');
    return digits;
}

std::string in_mib(std::uint64_t bytes) { return grouped((bytes + (1U << 19U)) >> 20U) + " MiB"; }

// 625 -> "6.25 %"
std::string percent(Share share) { return fmt::format("{:g} %", static_cast<double>(share.permyriad) / 100); }

std::string power(std::uint64_t value) { return fmt::format("2^{} = {}", std::countr_zero(value), grouped(value)); }

std::uint64_t share_of(std::uint64_t whole, Share share) {
    return static_cast<std::uint64_t>(static_cast<u128>(whole) * share.permyriad / 10'000);
}

std::uint64_t whole_pages(std::uint64_t buckets) {
    return std::min((buckets + bucket_granularity - 1) / bucket_granularity * bucket_granularity, largest_buckets);
}

// The target: max, buckets, budget, the cost of an entry, and how they came about.
SizingPlan target(const ConntrackSettings& settings, const SizingFacts& facts) {
    SizingPlan plan;
    const auto flow_bytes = facts.object_bytes + default_extension_bytes;
    auto text = std::back_inserter(plan.arithmetic);
    if (settings.max) {
        plan.max = std::clamp<std::uint64_t>(*settings.max, 1, largest_max);
        plan.buckets = settings.buckets ? whole_pages(*settings.buckets)
                                        : std::clamp(std::bit_ceil(plan.max), bucket_granularity, max_auto_max);
        plan.entry_bytes = flow_bytes + (bucket_bytes * plan.buckets + plan.max - 1) / plan.max;
        fmt::format_to(
            text, "{} entries as the policy says, {} buckets{}; {}{} + {} B an entry and {} B a bucket = {} when full",
            grouped(plan.max), grouped(plan.buckets), settings.buckets ? " likewise" : "", facts.object_bytes,
            facts.object_measured ? "" : " (assumed)", default_extension_bytes, bucket_bytes,
            in_mib(plan.max * flow_bytes + plan.buckets * bucket_bytes));
        return plan;
    }

    if (settings.memory_bytes) {
        plan.budget_bytes = *settings.memory_bytes;
        fmt::format_to(text, "{} of {}", in_mib(plan.budget_bytes), in_mib(facts.memory_bytes));
    } else {
        plan.budget_bytes = share_of(facts.memory_bytes, settings.memory);
        fmt::format_to(text, "{} of {} = {}", percent(settings.memory), in_mib(facts.memory_bytes),
                       in_mib(plan.budget_bytes));
    }
    std::uint64_t fitting = 0;
    if (settings.buckets) {
        plan.buckets = whole_pages(*settings.buckets);
        const auto fixed = plan.buckets * bucket_bytes;
        fitting = plan.budget_bytes > fixed ? (plan.budget_bytes - fixed) / flow_bytes : 0;
        fmt::format_to(text, ", less {} for {} buckets as the policy says; {}{} + {} B an entry = {} B", in_mib(fixed),
                       grouped(plan.buckets), facts.object_bytes, facts.object_measured ? "" : " (assumed)",
                       default_extension_bytes, flow_bytes);
    } else {
        plan.entry_bytes = flow_bytes + bucket_bytes;
        fitting = plan.budget_bytes / plan.entry_bytes;
        fmt::format_to(text, "; {}{} + {} + {} B an entry = {} B", facts.object_bytes,
                       facts.object_measured ? "" : " (assumed)", default_extension_bytes, bucket_bytes,
                       plan.entry_bytes);
    }
    plan.max = std::bit_floor(std::clamp(fitting, min_auto_max, max_auto_max));
    if (settings.buckets)
        plan.entry_bytes = flow_bytes + (bucket_bytes * plan.buckets + plan.max - 1) / plan.max;
    else
        plan.buckets = plan.max;
    const auto* limit = fitting < min_auto_max ? ", the least" : fitting > max_auto_max ? ", the most" : "";
    fmt::format_to(text, "; {} -> {} entries{}{}", grouped(fitting), power(plan.max),
                   settings.buckets ? "" : " and buckets", limit);
    return plan;
}

bool far_from(std::uint64_t wanted, std::uint64_t present) {
    const auto distance = wanted > present ? wanted - present : present - wanted;
    return distance > present / 8;
}

// Moves a knob to `wanted` or, when shrinking, as near to it as the present count allows; or says why not.
void move(SizingPlan& plan, SizingStep step, std::uint64_t count, bool calm) {
    const bool is_max = step.knob == Knob::max;
    const auto* name = is_max ? "nf_conntrack_max" : "nf_conntrack_buckets";
    const auto wanted = step.to;
    const auto present = is_max && step.from == 0 ? unlimited : step.from; // a maximum of 0 is none
    if (wanted < present) {
        const auto floor = count + (count + 3) / 4;
        step.to = std::min(present, std::max(wanted, is_max ? floor : whole_pages(floor)));
    }
    std::string reason;
    if (step.to != wanted) reason = fmt::format("{} stays above 1.25 x {} present entries", name, grouped(count));
    if (step.to != present) {
        if (calm || (is_max && step.to > present))
            plan.steps.push_back(step);
        else
            reason = fmt::format("{} waits until the table is no longer under pressure", name);
    }
    if (!reason.empty()) plan.reason += (plan.reason.empty() ? "" : "; ") + reason;
}

} // namespace

SizingPlan plan_sizing(const ConntrackSettings& settings, const SizingFacts& facts, Pressure pressure) {
    auto plan = target(settings, facts);
    const auto present_max = facts.max == 0 ? unlimited : facts.max; // 0 switches the limit off
    const bool move_max = settings.max ? plan.max != facts.max : far_from(plan.max, present_max);
    const bool move_buckets = settings.buckets ? plan.buckets != facts.buckets : far_from(plan.buckets, facts.buckets);
    if (!move_max && !move_buckets) return plan;
    if (!facts.writable) {
        plan.reason = "nf_conntrack_max and nf_conntrack_buckets are read-only here; only the first network namespace "
                      "may change them";
        return plan;
    }

    const bool calm = pressure == Pressure::ok;
    const auto max_step = [&] { move(plan, {Knob::max, facts.max, plan.max}, facts.count, calm); };
    const auto buckets_step = [&] { move(plan, {Knob::buckets, facts.buckets, plan.buckets}, facts.count, calm); };
    const bool buckets_first = plan.buckets > facts.buckets;
    if (move_buckets && buckets_first) buckets_step();
    if (move_max) max_step();
    if (move_buckets && !buckets_first) buckets_step();
    return plan;
}

Pressure next_pressure(Pressure now, std::uint64_t count, std::uint64_t max, const PressureSettings& settings) {
    if (max == 0) return Pressure::ok; // no limit
    const auto reaches = [&](Share share) {
        return static_cast<u128>(count) * 10'000 >= static_cast<u128>(max) * share.permyriad;
    };
    if (reaches(settings.critical)) return Pressure::critical;
    if (reaches(settings.warn)) return now == Pressure::critical ? Pressure::critical : Pressure::warn;
    return now == Pressure::ok || !reaches(settings.clear) ? Pressure::ok : Pressure::warn;
}

std::string_view to_string(Pressure pressure) {
    switch (pressure) {
    case Pressure::ok: return "ok";
    case Pressure::warn: return "warn";
    case Pressure::critical: return "critical";
    }
    return "ok";
}

} // namespace ctcached
