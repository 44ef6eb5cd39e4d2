// What the module nf_ctcache should keep: the policy's wishes, by zone id.
//
// The descriptor of a flow is put together when somebody asks for it, so it is nothing that the module has to keep.
// Flows that no zone of the policy takes (zone 0) get what a zone gets that says nothing: everything, class 0.
#pragma once

#include "plan/zones.hpp"
#include "policy/model.hpp"

#include <cstdint>
#include <vector>

namespace ctcached {

struct CacheZone {
    std::uint16_t id = 0;
    CacheKinds kinds;
    std::uint32_t flow_class = 0;

    bool operator==(const CacheZone&) const = default;
};

struct CachePlan {
    CacheMode mode = CacheMode::off;
    std::uint32_t decisions = 65535;
    std::uint32_t proof = 0;
    std::vector<CacheZone> zones; // in order of id

    bool operator==(const CachePlan&) const = default;
};

// `zones` are those of the policy, in its order.
[[nodiscard]] CachePlan plan_cache(const Policy& policy, const ZoneTable& zones);

// Where a flow's eight bytes lie.
enum class Carrier { none, act_ct, labels };

// act_ct's extension is free as long as neither of its users is loaded.
[[nodiscard]] constexpr Carrier choose_carrier(bool act_ct_loaded, bool openvswitch_loaded) {
    return act_ct_loaded || openvswitch_loaded ? Carrier::labels : Carrier::act_ct;
}

} // namespace ctcached
