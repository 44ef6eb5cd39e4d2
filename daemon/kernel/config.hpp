// Where policies come from: the search path, its drop-ins and their masking.
#pragma once

#include "base/error.hpp"
#include "policy/diagnostics.hpp"

#include <filesystem>
#include <span>
#include <vector>

namespace ctcached {

// One place of the search path. A folder contributes its *.yaml files and, as drop-ins, those of its policies.d/; a
// folder that is itself named policies.d contributes drop-ins only.
struct ConfigPath {
    std::filesystem::path path;
    bool optional = false; // absence is not an error (the default search path)
};

// /etc/ctcached/ctcached.yaml, then policies.d/*.yaml below /etc/ctcached, /run/ctcached and /usr/lib/ctcached.
[[nodiscard]] std::vector<ConfigPath> default_config_paths();

struct LoadedConfig {
    std::vector<Source> sources; // in the order in which they apply
    // Absolute paths for base/path_watch, sorted: a change at any of them may change the policy. They need not exist.
    std::vector<std::filesystem::path> watch;
};

// Reads the documents: named files and the folders' own *.yaml come first, in order; then the drop-ins of all folders
// in order of their file names. A file masks those of the same name and kind in later folders (an empty file or
// /dev/null masks and adds nothing). A file that cannot be read (a directory in place of a file, no permission, over
// 16 MiB) is an error at its name in `diagnostics`.
[[nodiscard]] LoadedConfig load_config(std::span<const ConfigPath> paths, Diagnostics& diagnostics);

} // namespace ctcached
