// What no single key can tell: duplicates, overlaps and `both` zones.
#pragma once

#include "policy/diagnostics.hpp"
#include "policy/model.hpp"

namespace ctcached {

// Cross-checks a parsed policy: duplicate names and ids, `direction: both` that could lose replies, zones by the port
// of a protocol with a conntrack helper, regrettable sizes and timeouts. Called by parse_policy().
void validate(const Policy& policy, Diagnostics& diagnostics);

// The `both` rule alone, for directions that were remembered rather than written (plan/zones): true when every zone
// whose direction is `both` may have it. Errors go to `diagnostics`, at the zone's place.
bool validate_directions(const Policy& policy, Diagnostics& diagnostics);

} // namespace ctcached
