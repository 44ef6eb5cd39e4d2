// Diagnostics are kept as they come, and put in order once, when they are shown: documents are parsed one after
// another, cross-checks come later, and a reader wants to walk through the file from the top.
#include "policy/diagnostics.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <tuple>

namespace ctcached {

std::uint32_t Diagnostics::file(std::string_view name) {
    const auto known = std::find(files.begin(), files.end(), name);
    const auto index = static_cast<std::uint32_t>(known - files.begin());
    if (known == files.end()) files.emplace_back(name);
    return index;
}

bool Diagnostics::has_errors() const {
    return std::any_of(entries.begin(), entries.end(),
                       [](const auto& entry) { return entry.severity == Severity::error; });
}

void Diagnostics::sort() {
    // At one place errors come before advice.
    const auto key = [](const Diagnostic& entry) {
        return std::tuple(entry.place.file, entry.place.line, entry.place.column, entry.severity != Severity::error);
    };
    std::stable_sort(entries.begin(), entries.end(), [&](const auto& a, const auto& b) {
        return std::tuple_cat(key(a), std::tie(a.text)) < std::tuple_cat(key(b), std::tie(b.text));
    });
    entries.erase(std::unique(entries.begin(), entries.end()), entries.end());
}

std::string Diagnostics::where(Place place) const {
    const std::string_view name = place.file < files.size() ? std::string_view(files[place.file]) : "<unknown>";
    return place.line == 0 ? std::string(name) : fmt::format("{}:{}:{}", name, place.line, place.column);
}

std::string Diagnostics::to_text(const Diagnostic& entry) const {
    return fmt::format("{}: {}: {}", where(entry.place), entry.severity == Severity::error ? "error" : "warning",
                       entry.text);
}

} // namespace ctcached
