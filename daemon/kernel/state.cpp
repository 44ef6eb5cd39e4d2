#include "kernel/state.hpp"

#include "base/files.hpp"

#include <fmt/format.h>
#include <nlohmann/json.hpp>

namespace ctcached {

namespace {

constexpr std::size_t max_state_bytes = 64U << 20U;

Result<std::string> read(const std::filesystem::path& path) { return read_file(path, max_state_bytes); }

Failure corrupt(const std::filesystem::path& path, std::string_view reason) {
    return {EINVAL, fmt::format("{}: {}", path.string(), reason)};
}

} // namespace

Result<ZoneTable> State::zones() const {
    const auto path = folder_ / "zones.json";
    const auto text = read(path);
    if (!text) return std::unexpected(text.error());
    auto table = zone_table_from_json(*text);
    if (!table) return std::unexpected(corrupt(path, table.error().text));
    return table;
}

Result<std::vector<Source>> State::policy() const {
    const auto path = folder_ / "policy.json";
    const auto text = read(path);
    if (!text) return std::unexpected(text.error());
    const auto json = nlohmann::json::parse(*text, nullptr, false);
    if (!json.is_array()) return std::unexpected(corrupt(path, "not a list of documents"));
    std::vector<Source> sources;
    for (const auto& document : json) {
        if (!document.is_object() || !document.contains("name") || !document["name"].is_string() ||
            !document.contains("text") || !document["text"].is_string())
            return std::unexpected(corrupt(path, "not a list of documents"));
        sources.push_back({document["name"].get<std::string>(), document["text"].get<std::string>()});
    }
    return sources;
}

Result<void> State::write(const char* name, const std::string& content) const {
    std::error_code error;
    std::filesystem::create_directories(folder_, error);
    if (error) return failure(error.value(), folder_.string());
    return write_atomically(folder_ / name, content);
}

Result<void> State::save(const ZoneTable& zones) const { return write("zones.json", to_json(zones)); }

Result<void> State::save(std::span<const Source> policy) const {
    auto documents = nlohmann::json::array();
    for (const Source& source : policy) documents.push_back({{"name", source.name}, {"text", source.text}});
    return write("policy.json", documents.dump(1));
}

} // namespace ctcached
