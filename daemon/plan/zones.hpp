// Zone ids and directions that outlive everything.
//
// A live flow is found again only under the zone id and direction that it was opened with, so neither may change by
// accident: what a zone once got it keeps, across restarts, reorderings and its own absence, until the policy names
// another id or direction for it. The memory is a table in a state file; the kernel's own table carries the same facts
// (the set `zones` of the nftables table, one commented element per zone) and wins where the file is older or lost.
#pragma once

#include "base/error.hpp"
#include "policy/diagnostics.hpp"
#include "policy/model.hpp"

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace ctcached {

struct ZoneIdentity {
    std::string name;
    std::uint16_t id = 0; // 1-65535; 0 is the kernel's default zone and never ours
    Direction direction = Direction::original;

    bool operator==(const ZoneIdentity&) const = default;
};

// In order of last use: zones of the present policy first, in its order, then the absent ones, last seen first.
using ZoneTable = std::vector<ZoneIdentity>;

struct ZoneAssignment {
    ZoneTable zones;    // of the policy's zones, same order
    ZoneTable remember; // to be persisted
    // Ids whose present entries belong to nobody any more, sorted: the id passes to another name, its zone has another
    // id now, or its direction changed. The entries must be flushed before the new rules are there.
    std::vector<std::uint16_t> recycled;
};

// Explicit ids first (they evict whoever holds them), then remembered ones, then the smallest id that nobody remembers;
// when all are remembered, the one of the zone that was seen longest ago. A zone without an explicit direction keeps
// its remembered one. The policy must be valid.
[[nodiscard]] ZoneAssignment assign_zones(const Policy& policy, const ZoneTable& remembered);

// `kernel` wins over `file` by name and by id; the result has each name and each id once.
[[nodiscard]] ZoneTable merge_tables(const ZoneTable& file, const ZoneTable& kernel);

// The state file's form: {"version": 1, "zones": [{"name": ..., "id": ..., "direction": "original"}, ...]}.
[[nodiscard]] std::string to_json(const ZoneTable& table);
// EINVAL with the reason for anything that to_json() could not have written (duplicates and zone 0 included).
[[nodiscard]] Result<ZoneTable> zone_table_from_json(std::string_view text);

} // namespace ctcached
