// How large the conntrack table should be, and how full it is.
//
// nf_conntrack_max and the number of buckets are two knobs that do not follow each other (writing one leaves the other
// alone), so both are planned. An entry costs its slab object, the extension area and its share of the hash table:
//
//     cost    = object + extension + 8 * buckets / max
//     max     = clamp(budget / cost, 65,536, 2^25), rounded down to a power of two
//     buckets = max
//
// Everything is a value: facts in, steps out; kernel/system reads the facts and takes the steps.
#pragma once

#include "policy/model.hpp"

#include <cstdint>
#include <string>
#include <vector>

namespace ctcached {

inline constexpr std::uint64_t min_auto_max = 65'536;
inline constexpr std::uint64_t max_auto_max = 1U << 25U;
inline constexpr std::uint64_t default_object_bytes = 256;    // struct nf_conn, Linux 6.1 and 6.18, x86-64
inline constexpr std::uint64_t default_extension_bytes = 128; // NF_CT_EXT_PREALLOC, net/netfilter/nf_conntrack_extend.c
inline constexpr std::uint64_t bucket_bytes = 8;              // struct hlist_nulls_head

struct SizingFacts {
    std::uint64_t memory_bytes = 0;                    // MemTotal
    std::uint64_t object_bytes = default_object_bytes; // of one nf_conn, with the slab's waste
    bool object_measured = false;                      // read from the running kernel
    std::uint64_t count = 0;                           // entries now
    std::uint64_t max = 0;                             // nf_conntrack_max now
    std::uint64_t buckets = 0;                         // nf_conntrack_buckets now
    bool writable = true;                              // false in a namespace other than the first

    bool operator==(const SizingFacts&) const = default;
};

enum class Knob { max, buckets };

struct SizingStep {
    Knob knob = Knob::max;
    std::uint64_t from = 0;
    std::uint64_t to = 0;

    bool operator==(const SizingStep&) const = default;
};

struct SizingPlan {
    std::uint64_t max = 0; // what the table should have
    std::uint64_t buckets = 0;
    std::uint64_t budget_bytes = 0; // 0 when the policy names max
    std::uint64_t entry_bytes = 0;
    // In the order in which they are to be taken: buckets first when growing, max first when shrinking. Empty: nothing
    // to do, because the present values are within 12.5 % of an automatic target or equal to a fixed one, or not
    // writable, or not now (reason).
    std::vector<SizingStep> steps;
    std::string arithmetic; // one sentence with all the numbers
    std::string reason;     // why the steps do not reach the target; empty when they do

    bool operator==(const SizingPlan&) const = default;
};

enum class Pressure { ok, warn, critical };

[[nodiscard]] SizingPlan plan_sizing(const ConntrackSettings& settings, const SizingFacts& facts, Pressure pressure);

// The next state by count/max: up at `warn` and `critical`, down to ok only below `clear`, from critical to warn below
// `warn`. So a count that swings around one threshold changes the state once.
[[nodiscard]] Pressure next_pressure(Pressure now, std::uint64_t count, std::uint64_t max,
                                     const PressureSettings& settings);

[[nodiscard]] std::string_view to_string(Pressure pressure);

} // namespace ctcached
