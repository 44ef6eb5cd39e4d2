#include "plan/cache.hpp"

#include <algorithm>

namespace ctcached {

CachePlan plan_cache(const Policy& policy, const ZoneTable& zones) {
    CachePlan plan{
        .mode = policy.cache.mode, .decisions = policy.cache.decisions, .proof = policy.cache.proof, .zones = {}};
    plan.zones.reserve(policy.zones.size());
    for (std::size_t z = 0; z < policy.zones.size(); ++z) {
        CacheKinds kinds = policy.zones[z].cache;
        kinds.descriptor = false;
        plan.zones.push_back({.id = zones[z].id, .kinds = kinds, .flow_class = policy.zones[z].flow_class});
    }
    std::ranges::sort(plan.zones, {}, &CacheZone::id);
    return plan;
}

} // namespace ctcached
