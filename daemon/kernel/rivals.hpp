// Others who take packets past the cache: flowtables, and modules with flow tables of their own.
//
// What they forward never reaches the hooks where our flows are counted and our cache is asked, so the administrator
// should know; nothing is done against them.
#pragma once

#include "base/error.hpp"
#include "kernel/system.hpp"

#include <span>
#include <string>
#include <vector>

namespace ctcached {

// "inet filter ft" of each flowtable in a part of a dump (any bytes). EBADMSG for malformed input.
[[nodiscard]] Result<std::vector<std::string>> decode_flowtables(std::span<const char> replies);

// A sentence; empty: there is none.
[[nodiscard]] Result<std::string> find_rivals(const System& system);

} // namespace ctcached
