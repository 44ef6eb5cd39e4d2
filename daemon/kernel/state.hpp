// What outlives the daemon: the zone ids, and the last policy that was applied.
//
//     STATE_DIR/zones.json     ids and directions by zone name (plan/zones)
//     STATE_DIR/policy.json    [{"name": ..., "text": ...}, ...], the documents of the last applied policy: what
//                              a start with a broken policy runs on
//
// Both are replaced atomically. Losing either costs nothing that the kernel's own table does not still show.
#pragma once

#include "base/error.hpp"
#include "plan/zones.hpp"
#include "policy/diagnostics.hpp"

#include <filesystem>
#include <span>
#include <vector>

namespace ctcached {

class State {
public:
    explicit State(std::filesystem::path folder) : folder_(std::move(folder)) {}

    // ENOENT when there is none yet; EINVAL with the reason when it is corrupt.
    [[nodiscard]] Result<ZoneTable> zones() const;
    [[nodiscard]] Result<std::vector<Source>> policy() const;
    // Both make the folder when it is missing.
    [[nodiscard]] Result<void> save(const ZoneTable& zones) const;
    [[nodiscard]] Result<void> save(std::span<const Source> policy) const;

private:
    [[nodiscard]] Result<void> write(const char* name, const std::string& content) const;

    std::filesystem::path folder_;
};

} // namespace ctcached
