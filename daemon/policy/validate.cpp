// Cross-checks: what no single key can tell.
#include "policy/validate.hpp"

namespace ctcached {

void validate(const Policy& /*policy*/, Diagnostics& /*diagnostics*/) {}

bool validate_directions(const Policy& /*policy*/, Diagnostics& /*diagnostics*/) { return true; }

} // namespace ctcached
