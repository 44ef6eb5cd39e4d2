// Whole files in, whole files out.
#pragma once

#include "base/error.hpp"

#include <cstddef>
#include <filesystem>
#include <string>
#include <string_view>

namespace ctcached {

// EISDIR for a directory, EFBIG above `limit` bytes, else the errno of the failing call; the text names the path.
[[nodiscard]] Result<std::string> read_file(const std::filesystem::path& path, std::size_t limit);

// Temporary file beside it, fsync, rename, fsync of the folder: after a crash there is the old file or the new one. On
// failure (a full disk) the old file is untouched and the temporary one is gone.
[[nodiscard]] Result<void> write_atomically(const std::filesystem::path& path, std::string_view content);

} // namespace ctcached
