// Files by whole contents.
//
// Reading is for text of a bounded size: configuration, state, procfs and sysfs (which say nothing of their size, so
// the limit is checked while reading). A pipe or a socket is refused: opening one could block the event loop for ever.
//
// Writing never leaves half a file: a temporary one in the same folder (only there is rename() atomic), flushed before
// it takes the name, and the folder flushed after, so that a crash at any point leaves the old contents or the new.

#include "base/files.hpp"

#include "base/handle.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstdlib>

namespace ctcached {

namespace {

std::unexpected<Failure> path_failure(int error, const std::filesystem::path& path) {
    return failure(error, path.native());
}

Result<void> write_all(int fd, std::string_view content, const std::filesystem::path& path) {
    while (!content.empty()) {
        const auto written = ::write(fd, content.data(), content.size());
        if (written < 0 && errno == EINTR) continue;
        if (written < 0) return path_failure(errno, path);
        content.remove_prefix(static_cast<std::size_t>(written));
    }
    return {};
}

// Writes, flushes and renames; the caller removes `temporary` when this fails.
Result<void> replace(Fd fd, const std::string& temporary, const std::filesystem::path& path, std::string_view content) {
    if (auto written = write_all(fd.get(), content, path); !written) return written;
    // mkostemp() makes files that only the owner reads; there is nothing secret in ours.
    if (::fchmod(fd.get(), S_IRUSR | S_IWUSR | S_IRGRP | S_IROTH) < 0 || ::fsync(fd.get()) < 0 ||
        ::rename(temporary.c_str(), path.c_str()) < 0)
        return path_failure(errno, path);
    return {};
}

} // namespace

Result<std::string> read_file(const std::filesystem::path& path, std::size_t limit) {
    // O_NONBLOCK: a pipe without a writer would otherwise block right here.
    const Fd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY));
    struct stat status {};
    if (!fd || ::fstat(fd.get(), &status) < 0) return path_failure(errno, path);
    if (S_ISDIR(status.st_mode)) return path_failure(EISDIR, path);
    if (!S_ISREG(status.st_mode) && !S_ISCHR(status.st_mode))
        return std::unexpected(Failure{EINVAL, fmt::format("{}: not a regular file", path.native())});

    std::string content;
    std::array<char, 16'384> chunk; // NOLINT(*-member-init): read() fills it
    for (;;) {
        const auto got = ::read(fd.get(), chunk.data(), chunk.size());
        if (got < 0 && errno == EINTR) continue;
        if (got < 0) return path_failure(errno, path);
        if (got == 0) return content;
        content.append(chunk.data(), static_cast<std::size_t>(got));
        if (content.size() > limit) return path_failure(EFBIG, path);
    }
}

Result<void> write_atomically(const std::filesystem::path& path, std::string_view content) {
    const auto folder = path.has_parent_path() ? path.parent_path() : std::filesystem::path(".");
    // The leading dot hides it from whoever lists *.json or *.yaml.
    auto temporary = (folder / fmt::format(".{}.XXXXXX", path.filename().native())).native();
    Fd fd(::mkostemp(temporary.data(), O_CLOEXEC));
    if (!fd) return path_failure(errno, path);
    if (auto replaced = replace(std::move(fd), temporary, path, content); !replaced) {
        ::unlink(temporary.c_str());
        return replaced;
    }
    const Fd folder_fd(::open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    if (!folder_fd || ::fsync(folder_fd.get()) < 0) return path_failure(errno, folder);
    return {};
}

} // namespace ctcached
