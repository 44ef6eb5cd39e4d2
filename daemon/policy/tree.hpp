// A YAML document as a flat tree of our own, every node with its place.
//
// The nodes stand in one array in the order in which they were written; a node is followed by its children, and `end`
// is the index behind its last descendant. So a document costs two allocations that grow, whatever it holds, and a
// reader walks siblings with `id = tree.nodes[id].end`. The children of a mapping are key, value, key, value, ...
#pragma once

#include "policy/diagnostics.hpp"

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace ctcached {

inline constexpr std::size_t max_nodes = 1'000'000;       // of one document
inline constexpr std::size_t max_lookahead = 512U << 10U; // bytes of one value, bracketed list or comment

enum class NodeKind : std::uint8_t {
    null,
    plain,  // a scalar without quotes, whose type is guessed from its text
    quoted, // a scalar that is text
    sequence,
    mapping,
    refused, // an alias or the like, already reported
};

struct TreeNode {
    NodeKind kind = NodeKind::null;
    std::uint32_t line = 0;
    std::uint32_t column = 0;
    std::uint32_t end = 0;
    std::uint32_t text = 0; // of a scalar: offset and length in Tree::text
    std::uint32_t length = 0;
};

struct Tree {
    std::vector<TreeNode> nodes; // the root first; empty for an empty document
    std::string text;

    [[nodiscard]] std::string_view scalar(std::uint32_t id) const {
        return std::string_view(text).substr(nodes[id].text, nodes[id].length);
    }
};

// Nothing when the document's syntax is broken; every reason goes to `diagnostics`, with `file` as its place's file.
[[nodiscard]] std::optional<Tree> read_tree(std::string_view document, std::uint32_t file, Diagnostics& diagnostics);

} // namespace ctcached
