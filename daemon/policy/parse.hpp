// YAML text to Policy.
//
// The documents are merged in their order: settings of a later one replace those of an earlier one key by key, zones
// are appended. The input is hostile: at most max_document_bytes a document and max_depth levels, no anchors, aliases
// or tags, UTF-8 without control characters. The keys, their types and ranges are tables (schema()), which a test holds
// equal to policies/ctcached.schema.json.
#pragma once

#include "policy/diagnostics.hpp"
#include "policy/model.hpp"

#include <span>
#include <string>
#include <vector>

namespace ctcached {

inline constexpr std::size_t max_document_bytes = 16U << 20U;
inline constexpr int max_depth = 16;

// Parses and validates. Places refer to Diagnostics::file(source.name). The policy is meaningful only when
// `diagnostics` has no errors. Never throws on any input.
[[nodiscard]] Policy parse_policy(std::span<const Source> sources, Diagnostics& diagnostics);

// One row per key of the language, for the test that compares it with the JSON schema.
struct SchemaKey {
    std::string path; // "conntrack.pressure.warn", "zones[].match[].ports"
    std::string type; // name of the definition in the JSON schema that its value has ("share", "port-list", ...)
    bool required = false;
    double minimum = 0; // of the number, where the type is one; both 0: no range
    double maximum = 0;
};
[[nodiscard]] std::vector<SchemaKey> schema();

} // namespace ctcached
