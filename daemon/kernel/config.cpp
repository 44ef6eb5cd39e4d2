// From a search path to documents.
//
// There are two kinds of files. Main files (a file that is named, the *.yaml of a folder that is named) apply in the
// order of the path. Drop-ins (the *.yaml of a folder `policies.d`, whether it is named or lies in one that is) apply
// after them, in order of their names whatever their folder, because that is what the numbers in front of such names
// are for. Within each kind, a file of a folder masks those of the same name in later folders, so that /etc overrides
// what a package ships, and an empty one (or a link to /dev/null) switches it off. A file that is named is never
// masked.
//
// The watch list follows the path, not what was found: a folder that does not exist yet is on it (base/path_watch
// waits for it), and so is each file that is a link, because its folder does not see when the target is written.

#include "kernel/config.hpp"

#include "base/files.hpp"
#include "policy/parse.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <map>
#include <set>
#include <string>

namespace ctcached {

namespace fs = std::filesystem;

namespace {

constexpr std::string_view drop_in_folder = "policies.d";

// Without "." and "..", and without a slash at the end.
fs::path normal(const fs::path& path) {
    std::error_code error;
    auto result = fs::absolute(path, error).lexically_normal();
    if (error) return path; // there is no current folder
    return result.has_filename() ? result : result.parent_path();
}

class Loader {
public:
    explicit Loader(Diagnostics& diagnostics) : diagnostics_(diagnostics) {}

    void add(const ConfigPath& entry) {
        std::error_code error;
        const auto status = fs::status(entry.path, error);
        if (!fs::exists(status)) {
            watch(entry.path);
            const int reason = error && error.value() != 0 ? error.value() : ENOENT;
            if (!entry.optional || (reason != ENOENT && reason != ENOTDIR)) complain(entry.path, reason);
        } else if (!fs::is_directory(status)) {
            watch(entry.path);
            watch_link(entry.path);
            read(entry.path, true);
        } else if (normal(entry.path).filename() == drop_in_folder) {
            add_drop_ins(entry.path);
        } else {
            watch(entry.path);
            for (const auto& path : yaml_files(entry.path))
                if (main_names_.insert(path.filename()).second) read(path, false);
            add_drop_ins(entry.path / drop_in_folder);
        }
    }

    LoadedConfig finish() {
        for (const auto& [name, path] : drop_ins_) read(path, false);
        std::ranges::sort(config_.watch);
        const auto duplicates = std::ranges::unique(config_.watch);
        config_.watch.erase(duplicates.begin(), duplicates.end());
        return std::move(config_);
    }

private:
    void add_drop_ins(const fs::path& folder) {
        watch(folder);
        std::error_code error;
        const auto status = fs::status(folder, error);
        if (fs::is_directory(status)) {
            for (const auto& path : yaml_files(folder)) drop_ins_.emplace(path.filename(), path);
        } else if (fs::exists(status)) {
            complain(folder, ENOTDIR);
        } else if (error && error.value() != ENOENT) {
            complain(folder, error.value());
        }
    }

    // Sorted by name; hidden ones are what editors leave behind.
    std::vector<fs::path> yaml_files(const fs::path& folder) {
        std::vector<fs::path> files;
        std::error_code error;
        for (fs::directory_iterator entry(folder, error); !error && entry != fs::directory_iterator();
             entry.increment(error)) {
            const auto& path = entry->path();
            if (path.extension() != ".yaml" || path.filename().native().starts_with('.')) continue;
            watch_link(path);
            files.push_back(path);
        }
        if (error) complain(folder, error.value());
        std::ranges::sort(files);
        return files;
    }

    void read(const fs::path& path, bool named) {
        auto text = read_file(path, max_document_bytes);
        if (!text) return complain(path, text.error().error);
        // A named file stays in the list even when empty: the parser says what it lacks.
        if (!text->empty() || named) config_.sources.push_back({path.native(), std::move(*text)});
    }

    void complain(const fs::path& path, int error) {
        const char* reason = error == EFBIG    ? "larger than 16 MiB"
                             : error == EINVAL ? "not a regular file"
                                               : strerrordesc_np(error);
        diagnostics_.error({.file = diagnostics_.file(path.native())},
                           reason ? reason : fmt::format("error {}", error));
    }

    void watch(const fs::path& path) { config_.watch.push_back(normal(path)); }
    void watch_link(const fs::path& path) {
        std::error_code error;
        if (fs::is_symlink(fs::symlink_status(path, error))) watch(path);
    }

    Diagnostics& diagnostics_;
    LoadedConfig config_;
    std::set<fs::path> main_names_;
    std::map<fs::path, fs::path> drop_ins_; // name -> the first one of that name
};

} // namespace

std::vector<ConfigPath> default_config_paths() {
    std::vector<ConfigPath> paths{{.path = "/etc/ctcached/ctcached.yaml", .optional = true}};
    for (const fs::path folder : {"/etc/ctcached", "/run/ctcached", "/usr/lib/ctcached"})
        paths.push_back({.path = folder / drop_in_folder, .optional = true});
    return paths;
}

LoadedConfig load_config(std::span<const ConfigPath> paths, Diagnostics& diagnostics) {
    Loader loader(diagnostics);
    for (const auto& path : paths) loader.add(path);
    return loader.finish();
}

} // namespace ctcached
