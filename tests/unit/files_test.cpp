// Files in a folder of the test's own.

#include "base/files.hpp"

#include <doctest/doctest.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <cstdlib>
#include <fstream>
#include <system_error>

using namespace ctcached;
namespace fs = std::filesystem;

namespace {

class Folder {
public:
    Folder() {
        std::string name = (fs::temp_directory_path() / "ctcached-files-XXXXXX").native();
        REQUIRE(::mkdtemp(name.data()) != nullptr);
        path = name;
    }
    Folder(const Folder&) = delete;
    Folder& operator=(const Folder&) = delete;
    ~Folder() { fs::remove_all(path); }

    [[nodiscard]] std::size_t entries() const {
        return static_cast<std::size_t>(std::distance(fs::directory_iterator(path), fs::directory_iterator()));
    }

    fs::path path;
};

void put(const fs::path& path, std::string_view content) { std::ofstream(path) << content; }

int error_of(const Result<std::string>& result) { return result ? 0 : result.error().error; }

// Files of this process end at `bytes`: a full disk that needs no root.
class FileSizeLimit {
public:
    explicit FileSizeLimit(rlim_t bytes) {
        std::signal(SIGXFSZ, SIG_IGN);
        ::getrlimit(RLIMIT_FSIZE, &before_);
        const rlimit limit{bytes, before_.rlim_max};
        ::setrlimit(RLIMIT_FSIZE, &limit);
    }
    FileSizeLimit(const FileSizeLimit&) = delete;
    FileSizeLimit& operator=(const FileSizeLimit&) = delete;
    ~FileSizeLimit() { ::setrlimit(RLIMIT_FSIZE, &before_); }

private:
    rlimit before_{};
};

} // namespace

TEST_CASE("reading") {
    const Folder folder;
    const auto file = folder.path / "file";
    put(file, "twelve bytes");
    CHECK(read_file(file, 12) == "twelve bytes");
    CHECK(error_of(read_file(file, 11)) == EFBIG);
    CHECK(error_of(read_file(folder.path / "missing", 12)) == ENOENT);
    CHECK(error_of(read_file(file / "below", 12)) == ENOTDIR);
    CHECK(read_file("/dev/null", 12) == "");
    CHECK(error_of(read_file("/dev/zero", 1'000'000)) == EFBIG);
    CHECK(read_file("/proc/self/comm", 100).has_value()); // says that it has no bytes

    const auto failed = read_file(folder.path, 12);
    CHECK(error_of(failed) == EISDIR);
    CHECK(failed.error().text == folder.path.native() + ": Is a directory");

    const std::string large(100'000, 'x'); // several chunks
    put(file, large);
    CHECK(read_file(file, 100'000) == large);
    CHECK(error_of(read_file(file, 99'999)) == EFBIG);

    REQUIRE(::mkfifo((folder.path / "pipe").c_str(), 0600) == 0);
    CHECK(error_of(read_file(folder.path / "pipe", 12)) == EINVAL); // and does not block
}

TEST_CASE("a file that may not be read") {
    if (::geteuid() == 0) return; // root may read everything
    const Folder folder;
    put(folder.path / "file", "x");
    fs::permissions(folder.path / "file", fs::perms::none);
    CHECK(error_of(read_file(folder.path / "file", 12)) == EACCES);
}

TEST_CASE("writing") {
    const Folder folder;
    const auto file = folder.path / "state.json";
    REQUIRE(write_atomically(file, "old"));
    CHECK(read_file(file, 100) == "old");
    REQUIRE(write_atomically(file, "a longer content"));
    CHECK(read_file(file, 100) == "a longer content");
    REQUIRE(write_atomically(file, ""));
    CHECK(read_file(file, 100) == "");
    CHECK(fs::status(file).permissions() == fs::perms(0644));
    CHECK(folder.entries() == 1);
}

TEST_CASE("a reader that has the old file open keeps it whole") {
    const Folder folder;
    const auto file = folder.path / "state.json";
    REQUIRE(write_atomically(file, "old"));
    std::ifstream reader(file);
    REQUIRE(write_atomically(file, "new and longer"));
    std::string content;
    std::getline(reader, content);
    CHECK(content == "old");
}

TEST_CASE("a write that fails changes nothing") {
    const Folder folder;
    const auto missing = write_atomically(folder.path / "missing" / "file", "x");
    REQUIRE(!missing);
    CHECK(missing.error().error == ENOENT);
    CHECK(missing.error().text == (folder.path / "missing" / "file").native() + ": No such file or directory");

    // A folder in the file's place: only the rename fails.
    fs::create_directory(folder.path / "folder");
    const auto in_place = write_atomically(folder.path / "folder", "x");
    REQUIRE(!in_place);
    CHECK(in_place.error().error == EISDIR);
    CHECK(folder.entries() == 1);

    const auto file = folder.path / "state.json";
    REQUIRE(write_atomically(file, "old"));
    {
        const FileSizeLimit limit(4096);
        const auto full = write_atomically(file, std::string(10'000, 'x'));
        REQUIRE(!full);
        CHECK(full.error().error == EFBIG);
    }
    CHECK(read_file(file, 100) == "old");
    CHECK(folder.entries() == 2);
}
