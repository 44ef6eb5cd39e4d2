// The box as files.
//
// procfs and sysfs are read through one function that takes nothing for granted: the files of another kernel may be
// missing, and what stands in them is checked like any input, so that an error names the path and the text found
// there. Values that only sharpen an estimate (the size of nf_conn) fall back to a default when their file cannot be
// had, and are an error only when it says nonsense.
//
// Writability is asked by opening for writing, which changes nothing: in a network namespace other than the first,
// nf_conntrack_max and nf_conntrack_buckets have mode 0444 (nf_conntrack_standalone.c) and net_ctl_permissions()
// (net/sysctl_net.c) answers EACCES even to its administrator; in a container, /proc/sys may be mounted read-only.

#include "kernel/system.hpp"

#include "base/files.hpp"
#include "base/handle.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <charconv>
#include <optional>
#include <sstream>

namespace ctcached {

namespace fs = std::filesystem;

namespace {

constexpr std::size_t max_line_bytes = 4096;
constexpr std::size_t max_file_bytes = 16U << 20U; // modules.dep and slabinfo
constexpr std::string_view sysctl_folder = "proc/sys/net/netfilter";
constexpr std::string_view blanks = " \t\n";
constexpr std::uint64_t largest_object_bytes = 1U << 20U;
constexpr std::uint64_t largest_slab_order = 10; // MAX_ORDER

std::string_view trimmed(std::string_view text) {
    const auto first = text.find_first_not_of(blanks);
    if (first == std::string_view::npos) return {};
    return text.substr(first, text.find_last_not_of(blanks) - first + 1);
}

std::optional<std::uint64_t> to_number(std::string_view text) {
    std::uint64_t value = 0;
    const auto* begin = text.data();
    const auto* end = begin + text.size();
    const auto [stop, error] = std::from_chars(begin, end, value);
    if (error != std::errc{} || stop != end || text.empty()) return std::nullopt;
    return value;
}

std::unexpected<Failure> nonsense(const fs::path& path, std::string_view found, std::string_view wanted) {
    // What stands there may be anything; a terminal should not have to cope with it.
    std::string shown(found.substr(0, 40));
    std::ranges::replace_if(
        shown, [](char c) { return c < ' ' || c > '~'; }, '?');
    return std::unexpected(Failure{EBADMSG, fmt::format("{}: \"{}\" is not {}", path.native(), shown, wanted)});
}

Result<std::uint64_t> read_number(const fs::path& path) {
    const auto text = read_file(path, max_line_bytes);
    if (!text) return std::unexpected(text.error());
    const auto value = to_number(trimmed(*text));
    if (!value) return nonsense(path, trimmed(*text), "a number");
    return *value;
}

Result<fs::path> sysctl_path(const fs::path& root, std::string_view name) {
    if (name.empty() || name.find_first_not_of("abcdefghijklmnopqrstuvwxyz0123456789_") != std::string_view::npos)
        return failure(EINVAL, fmt::format("sysctl nf_conntrack_{}", name));
    return root / sysctl_folder / fmt::format("nf_conntrack_{}", name);
}

// The folder is there as soon as the module is: an absent one has a simpler explanation than ENOENT.
std::unexpected<Failure> explained(Failure failure, const fs::path& path) {
    std::error_code ignored; // NOLINT(bugprone-unused-local-non-trivial-variable): absent is the answer, not an error
    if (failure.error == ENOENT && !fs::exists(path.parent_path() / "nf_conntrack_max", ignored))
        failure.text += " (the module nf_conntrack is not loaded)";
    return std::unexpected(std::move(failure));
}

Result<bool> writable(const fs::path& path) {
    const Fd fd(::open(path.c_str(), O_WRONLY | O_CLOEXEC));
    if (fd) return true;
    const int error = errno;
    if (error == EACCES || error == EPERM || error == EROFS) return false;
    return failure(error, path.native());
}

Result<std::uint64_t> memory_total(const fs::path& root) {
    const auto path = root / "proc/meminfo";
    const auto text = read_file(path, max_file_bytes);
    if (!text) return std::unexpected(text.error());
    std::istringstream lines(*text);
    for (std::string line; std::getline(lines, line);) {
        std::string_view rest(line);
        if (!rest.starts_with("MemTotal:")) continue;
        rest = trimmed(rest.substr(rest.find(':') + 1));
        const auto kib = rest.ends_with(" kB") ? to_number(trimmed(rest.substr(0, rest.size() - 3))) : std::nullopt;
        if (!kib || *kib == 0 || *kib > UINT64_MAX / 1024) return nonsense(path, line, "a size in kB");
        return *kib * 1024;
    }
    return nonsense(path, trimmed(*text).substr(0, 40), "a list with MemTotal");
}

struct Slab {
    std::uint64_t bytes = 0;
    std::uint64_t objects = 0;
};

// What an object takes of its slab, the rest that no object fits into included.
Result<std::optional<std::uint64_t>> object_bytes(const Slab& slab, const fs::path& path) {
    const auto each = slab.objects == 0 ? 0 : slab.bytes / slab.objects;
    if (each == 0 || each > largest_object_bytes)
        return nonsense(path, fmt::format("{} objects in {} bytes", slab.objects, slab.bytes), "a slab");
    return each;
}

bool unavailable(const Failure& failure) {
    return failure.error == ENOENT || failure.error == EACCES || failure.error == EPERM || failure.error == ENOTDIR;
}

Result<std::optional<std::uint64_t>> object_bytes_of_sysfs(const fs::path& root, std::uint64_t page) {
    const auto folder = root / "sys/kernel/slab/nf_conntrack";
    std::array<std::uint64_t, 2> values{};
    const std::array<const char*, 2> names{"order", "objs_per_slab"};
    for (std::size_t i = 0; i < names.size(); ++i) {
        const auto value = read_number(folder / names[i]);
        if (!value && unavailable(value.error())) return std::nullopt;
        if (!value) return std::unexpected(value.error());
        values[i] = *value;
    }
    if (values[0] > largest_slab_order) return nonsense(folder / "order", fmt::to_string(values[0]), "a slab's order");
    return object_bytes({.bytes = page << values[0], .objects = values[1]}, folder);
}

// "nf_conntrack  <active> <number> <object size> <objects per slab> <pages per slab> : ..." (mm/slab_common.c)
Result<std::optional<std::uint64_t>> object_bytes_of_slabinfo(const fs::path& root, std::uint64_t page) {
    const auto path = root / "proc/slabinfo";
    const auto text = read_file(path, max_file_bytes);
    if (!text && unavailable(text.error())) return std::nullopt;
    if (!text) return std::unexpected(text.error());
    std::istringstream lines(*text);
    for (std::string line; std::getline(lines, line);) {
        if (!line.starts_with("nf_conntrack ")) continue;
        std::istringstream words(line);
        std::array<std::string, 6> word;
        for (auto& each : word) words >> each;
        const auto objects = to_number(word[4]);
        const auto pages = to_number(word[5]);
        if (!objects || !pages || *pages > 1U << largest_slab_order) return nonsense(path, line, "a line of slabinfo");
        return object_bytes({.bytes = page * *pages, .objects = *objects}, path);
    }
    return std::nullopt;
}

// Below /lib/modules/<release>, from modules.dep; empty when it is not installed.
std::string installed_module(const fs::path& root, std::string_view release) {
    const auto text = read_file(root / "lib/modules" / release / "modules.dep", max_file_bytes);
    if (!text) return {};
    std::istringstream lines(*text);
    for (std::string line; std::getline(lines, line);) {
        const auto path = line.substr(0, line.find(':'));
        if (fs::path(path).filename().native().starts_with("nf_ctcache.ko"))
            return fs::path(path).is_absolute() ? path : fmt::format("/lib/modules/{}/{}", release, path);
    }
    return {};
}

} // namespace

Result<std::uint64_t> System::conntrack_sysctl(std::string_view name) const {
    const auto path = sysctl_path(root_, name);
    if (!path) return std::unexpected(path.error());
    auto value = read_number(*path);
    if (!value) return explained(value.error(), *path);
    return value;
}

Result<void> System::set_conntrack_sysctl(std::string_view name, std::uint64_t value) const {
    const auto path = sysctl_path(root_, name);
    if (!path) return std::unexpected(path.error());
    const auto what = fmt::format("{}: writing {}", path->native(), value);
    const Fd fd(::open(path->c_str(), O_WRONLY | O_CLOEXEC | O_TRUNC));
    if (!fd) return explained(failure(errno, what).error(), *path);
    // One write: each is a whole new value to the kernel.
    const auto text = fmt::format("{}\n", value);
    if (::write(fd.get(), text.data(), text.size()) < 0) return failure(errno, what);
    return {};
}

Result<SizingFacts> System::sizing_facts() const {
    SizingFacts facts;
    const auto memory = memory_total(root_);
    if (!memory) return std::unexpected(memory.error());
    facts.memory_bytes = *memory;

    const auto page = static_cast<std::uint64_t>(::sysconf(_SC_PAGESIZE));
    auto object = object_bytes_of_sysfs(root_, page);
    if (object && !*object) object = object_bytes_of_slabinfo(root_, page);
    if (!object) return std::unexpected(object.error());
    facts.object_measured = object->has_value();
    facts.object_bytes = object->value_or(default_object_bytes);

    for (const auto& [name, value] : {std::pair{"max", &facts.max}, std::pair{"buckets", &facts.buckets}}) {
        const auto present = conntrack_sysctl(name);
        if (!present) return std::unexpected(present.error());
        *value = *present;
        const auto path = sysctl_path(root_, name);
        const auto open = writable(*path);
        if (!open) return std::unexpected(open.error());
        facts.writable = facts.writable && *open;
    }
    return facts;
}

bool System::module_loaded(std::string_view name) const {
    std::error_code ignored; // NOLINT(bugprone-unused-local-non-trivial-variable): absent is the answer, not an error
    return fs::exists(root_ / "sys/module" / name, ignored);
}

std::string System::cache_unavailable() const {
    if (module_loaded("nf_ctcache")) return {};
    const auto text = read_file(root_ / "proc/sys/kernel/osrelease", max_line_bytes);
    const auto release = text ? trimmed(*text) : std::string_view{};
    if (release.empty() || release.find('/') != std::string_view::npos)
        return "the module nf_ctcache is not loaded, and the kernel does not tell its release";
    const auto installed = installed_module(root_, release);
    if (installed.empty())
        return fmt::format("the module nf_ctcache is not loaded, and not installed for the running kernel {}", release);
    return fmt::format("the module nf_ctcache is not loaded, although {} is installed", installed);
}

} // namespace ctcached
