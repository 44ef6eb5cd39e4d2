#include "plan/box_index.hpp"

#include <algorithm>

namespace ctcached {

bool overlap(const Box& a, const Box& b) {
    for (std::size_t f = 0; f < a.size(); ++f)
        if (a[f].last < b[f].first || b[f].last < a[f].first) return false;
    return true;
}

bool contains(const Box& outer, const Box& inner) {
    for (std::size_t f = 0; f < outer.size(); ++f)
        if (inner[f].first < outer[f].first || outer[f].last < inner[f].last) return false;
    return true;
}

std::vector<Box> subtract(const std::vector<Box>& boxes, const Box& hole) {
    std::vector<Box> left;
    for (const Box& box : boxes) {
        if (!overlap(box, hole)) {
            left.push_back(box);
            continue;
        }
        // Cut off, field by field, what lies before and behind the hole; what remains in the end is inside it.
        Box rest = box;
        for (std::size_t f = 0; f < box.size(); ++f) {
            if (rest[f].first < hole[f].first) {
                left.push_back(rest);
                left.back()[f].last = hole[f].first - 1;
                rest[f].first = hole[f].first;
            }
            if (hole[f].last < rest[f].last) {
                left.push_back(rest);
                left.back()[f].first = hole[f].last + 1;
                rest[f].last = hole[f].last;
            }
        }
    }
    return left;
}

void BoxIndex::insert(std::size_t id, const Box& box) {
    const Interval& range = box[leading_];
    by_size_[range.last - range.first].emplace(range.first, Held{box, id});
}

template <typename Visit>
void BoxIndex::walk(const Box& box, Visit visit) const {
    const Interval& query = box[leading_];
    for (const auto& [size, held] : by_size_) {
        const u128 from = query.first > size ? query.first - size : 0;
        for (auto at = held.lower_bound(from); at != held.end() && at->first <= query.last; ++at)
            if (overlap(at->second.box, box) && !visit(at->second)) return;
    }
}

std::vector<std::size_t> BoxIndex::overlapping(const Box& box) const {
    std::vector<std::size_t> ids;
    walk(box, [&](const Held& held) {
        ids.push_back(held.id);
        return true;
    });
    std::ranges::sort(ids);
    return ids;
}

bool BoxIndex::overlaps(const Box& box) const {
    bool found = false;
    walk(box, [&](const Held&) {
        found = true;
        return false;
    });
    return found;
}

} // namespace ctcached
