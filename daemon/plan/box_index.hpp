// Boxes that can be asked who overlaps.
//
// The boxes are sorted by where they begin in their leading field, separately for each size that they have there. A
// range of size w overlaps a query exactly when it begins within w before the query's end, so each size is one walk
// over a sorted map. Prefixes have few sizes, and that is what policies are made of.
#pragma once

#include "plan/layers.hpp"

#include <cstddef>
#include <map>
#include <vector>

namespace ctcached {

class BoxIndex {
public:
    explicit BoxIndex(std::size_t leading_field) : leading_(leading_field) {}

    void insert(std::size_t id, const Box& box);
    // In order of id.
    [[nodiscard]] std::vector<std::size_t> overlapping(const Box& box) const;
    [[nodiscard]] bool overlaps(const Box& box) const;

private:
    struct Held {
        Box box;
        std::size_t id;
    };
    // Calls visit(held) for overlapping boxes until it returns false.
    template <typename Visit>
    void walk(const Box& box, Visit visit) const;

    std::size_t leading_;
    std::map<u128, std::multimap<u128, Held>> by_size_; // size less one -> first value -> box
};

[[nodiscard]] bool overlap(const Box& a, const Box& b);
[[nodiscard]] bool contains(const Box& outer, const Box& inner);
// What is left of `boxes` without `hole`, disjoint if they were.
[[nodiscard]] std::vector<Box> subtract(const std::vector<Box>& boxes, const Box& hole);

} // namespace ctcached
