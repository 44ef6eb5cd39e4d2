// Matches in words, one item a line, as the policy language writes them.
#pragma once

#include "policy/model.hpp"

#include <string>

namespace ctcached {

// "protocol: tcp, ports: 80 443 8000-8100"
[[nodiscard]] std::string to_text(const Match& match);

} // namespace ctcached
