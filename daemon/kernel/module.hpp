// Loading a kernel module, as modprobe(8) does it, and saying why it could not be done.
#pragma once

#include "base/error.hpp"

#include <filesystem>
#include <string>

namespace ctcached {

// The words for an errno of finit_module(2) and of libkmod's search.
[[nodiscard]] std::string explain_load(int error);

// Loads `name` and what it needs; no failure when it is there. Below a root other than "/", its /lib/modules.
[[nodiscard]] Result<void> load_module(const std::string& name, const std::filesystem::path& root);

} // namespace ctcached
