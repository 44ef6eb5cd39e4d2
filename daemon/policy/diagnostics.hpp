// What is wrong with a policy, all of it at once.
//
// Errors reject the whole policy; warnings ("lints") are advice. Both carry a place and print as compilers do:
// `file:line:col: error: text`, or `file: error: text` for a file as a whole.
#pragma once

#include "policy/model.hpp"

#include <string>
#include <string_view>
#include <vector>

namespace ctcached {

// A policy document: the name to show (a path, "<string>") and its bytes.
struct Source {
    std::string name;
    std::string text;

    bool operator==(const Source&) const = default;
};

enum class Severity { warning, error };

struct Diagnostic {
    Severity severity = Severity::error;
    Place place;
    std::string text;

    bool operator==(const Diagnostic&) const = default;
};

struct Diagnostics {
    std::vector<std::string> files; // what Place::file indexes
    std::vector<Diagnostic> entries;

    // The index of a file's name in `files`, which gets it when it is new.
    std::uint32_t file(std::string_view name);

    void error(Place place, std::string text) { entries.push_back({Severity::error, place, std::move(text)}); }
    void warning(Place place, std::string text) { entries.push_back({Severity::warning, place, std::move(text)}); }
    [[nodiscard]] bool has_errors() const;
    [[nodiscard]] bool empty() const { return entries.empty(); }

    // In order of file, line, column; equal entries once.
    void sort();
    // One line each, no newline at the end of the line.
    [[nodiscard]] std::string to_text(const Diagnostic& entry) const;
    // "file:line:col" of a place, for texts that point at a second place.
    [[nodiscard]] std::string where(Place place) const;
};

} // namespace ctcached
