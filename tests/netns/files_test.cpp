// Replacing a file on a full disk: a small tmpfs in a mount namespace of the test's own.
#define DOCTEST_CONFIG_IMPLEMENT
#include "base/files.hpp"

#include <doctest/doctest.h>
#include <sched.h>
#include <sys/mount.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstdlib>

using namespace ctcached;
namespace fs = std::filesystem;

namespace {

// The namespace goes with the process, and the mount with the namespace; the folder below is removed.
struct SmallDisk {
    SmallDisk() {
        std::string name = (fs::temp_directory_path() / "ctcached-disk-XXXXXX").native();
        REQUIRE(::mkdtemp(name.data()) != nullptr);
        path = name;
        REQUIRE(::mount("none", path.c_str(), "tmpfs", 0, "size=16k,mode=0700") == 0);
    }
    SmallDisk(const SmallDisk&) = delete;
    SmallDisk& operator=(const SmallDisk&) = delete;
    ~SmallDisk() {
        ::umount(path.c_str());
        fs::remove(path);
    }

    fs::path path;
};

} // namespace

TEST_CASE("a full disk leaves the old file, and no temporary one") {
    const SmallDisk disk;
    const auto file = disk.path / "zones.json";
    const std::string old(8000, 'a'); // two pages of the disk's four
    REQUIRE(write_atomically(file, old));
    const auto full = write_atomically(file, std::string(12'000, 'b'));
    REQUIRE(!full);
    CHECK(full.error().error == ENOSPC);
    CHECK(full.error().text == file.native() + ": No space left on device");
    CHECK(read_file(file, 100'000) == old);
    CHECK(std::distance(fs::directory_iterator(disk.path), fs::directory_iterator()) == 1);
    REQUIRE(write_atomically(file, "fits")); // and the space is free again
    CHECK(read_file(file, 100'000) == "fits");
}

TEST_CASE("a disk that may not be written") {
    const SmallDisk disk;
    const auto file = disk.path / "zones.json";
    REQUIRE(write_atomically(file, "old"));
    REQUIRE(::mount(nullptr, disk.path.c_str(), nullptr, MS_REMOUNT | MS_RDONLY, nullptr) == 0);
    const auto refused = write_atomically(file, "new");
    REQUIRE(!refused);
    CHECK(refused.error().error == EROFS);
    CHECK(read_file(file, 100) == "old");
}

int main(int argc, char** argv) {
    if (::geteuid() != 0 || ::unshare(CLONE_NEWNS) != 0 ||
        ::mount("none", "/", nullptr, MS_REC | MS_PRIVATE, nullptr) != 0) {
        std::puts("skipped: needs root");
        return 77;
    }
    return doctest::Context(argc, argv).run();
}
