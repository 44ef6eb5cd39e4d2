// Where policies come from: the search path, its drop-ins and their masking.
#pragma once

#include "base/error.hpp"
#include "policy/diagnostics.hpp"

#include <filesystem>
#include <span>
#include <vector>

namespace ctcached {

// One place of the search path. A folder contributes its *.yaml files and those of its policies.d/.
struct ConfigPath {
    std::filesystem::path path;
    bool optional = false; // absence is not an error (the default search path)
};

// /etc/ctcached/ctcached.yaml, then policies.d/*.yaml below /etc/ctcached, /run/ctcached and /usr/lib/ctcached.
[[nodiscard]] std::vector<ConfigPath> default_config_paths();

struct LoadedConfig {
    std::vector<Source> sources; // in the order in which they apply
    // Folders and files to watch: a change in any of them may change the policy.
    std::vector<std::filesystem::path> watch;
};

// Reads the documents: files as named come first, in order; then the drop-ins of all folders in order of their file
// names, where a file masks those of the same name in later folders (an empty file or /dev/null masks and adds
// nothing). A file that cannot be read (a directory in place of a file, no permission, over 16 MiB) is an error at its
// name in `diagnostics`.
[[nodiscard]] LoadedConfig load_config(std::span<const ConfigPath> paths, Diagnostics& diagnostics);

} // namespace ctcached
