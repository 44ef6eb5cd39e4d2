// procfs and sysfs as a folder: what a kernel says, and what none would.

#include "kernel/system.hpp"

#include <doctest/doctest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <fstream>

using namespace ctcached;
namespace fs = std::filesystem;

namespace {

constexpr auto sysctls = "proc/sys/net/netfilter/nf_conntrack_";

// A box with 2 GiB and everything in its place.
class Box {
public:
    Box() {
        std::string name = (fs::temp_directory_path() / "ctcached-system-XXXXXX").native();
        REQUIRE(::mkdtemp(name.data()) != nullptr);
        root = name;
        put("proc/meminfo", "MemTotal:        2097152 kB\nMemFree:          123456 kB\n");
        put("sys/kernel/slab/nf_conntrack/order", "0\n");
        put("sys/kernel/slab/nf_conntrack/objs_per_slab", "16\n");
        put(std::string(sysctls) + "max", "65536\n");
        put(std::string(sysctls) + "buckets", "16384\n");
    }
    Box(const Box&) = delete;
    Box& operator=(const Box&) = delete;
    ~Box() { fs::remove_all(root); }

    void put(const fs::path& path, std::string_view text) const {
        fs::create_directories((root / path).parent_path());
        std::ofstream(root / path) << text;
    }
    void sysctl(const std::string& name, std::string_view text) const { put(sysctls + name, text); }
    void remove(const fs::path& path) const { fs::remove_all(root / path); }
    [[nodiscard]] System system() const { return System(root); }
    // The failure's text with the root cut off.
    template <typename T>
    [[nodiscard]] std::string text(const Result<T>& result) const {
        REQUIRE(!result);
        REQUIRE(result.error().error != 0);
        const auto& text = result.error().text;
        return text.starts_with(root.native()) ? text.substr(root.native().size() + 1) : text;
    }

    fs::path root;
};

} // namespace

TEST_CASE("sysctls by name") {
    const Box box;
    box.sysctl("tcp_timeout_established", "432000\n");
    CHECK(box.system().conntrack_sysctl("max") == 65'536);
    CHECK(box.system().conntrack_sysctl("tcp_timeout_established") == 432'000);

    REQUIRE(box.system().set_conntrack_sysctl("tcp_timeout_established", 86'400));
    CHECK(box.system().conntrack_sysctl("tcp_timeout_established") == 86'400);

    const std::string path = std::string(sysctls) + "acct";
    CHECK(box.text(box.system().conntrack_sysctl("acct")) == path + ": No such file or directory");
    CHECK(box.text(box.system().set_conntrack_sysctl("acct", 1)) == path + ": writing 1: No such file or directory");
    struct Case {
        std::string content;
        std::string shown;
    };
    const std::vector<Case> cases = {
        {"", ""},
        {"\n", ""},
        {"-1\n", "-1"},
        {"1x\n", "1x"},
        {"1 2\n", "1 2"},
        {"0x10", "0x10"},
        {"+1", "+1"},
        {"\x1b[31m", "?[31m"},
        {"18446744073709551616", "18446744073709551616"},
        {" 1\n2\n", "1?2"},
        {std::string(100, '9'), std::string(40, '9')},
    };
    for (const auto& [content, shown] : cases) {
        box.sysctl("acct", content);
        CHECK(box.text(box.system().conntrack_sysctl("acct")) == path + ": \"" + shown + "\" is not a number");
    }
    box.sysctl("acct", std::string(5000, '1'));
    CHECK(box.text(box.system().conntrack_sysctl("acct")) == path + ": File too large");
    box.remove(path);
    fs::create_directory(box.root / path);
    CHECK(box.text(box.system().conntrack_sysctl("acct")) == path + ": Is a directory");
    for (const auto* name : {"", "../../../etc/passwd", "a/b", "Max", "a b"}) {
        CHECK(box.system().conntrack_sysctl(name).error().error == EINVAL);
        CHECK(box.system().set_conntrack_sysctl(name, 1).error().error == EINVAL);
    }
    box.remove("proc/sys/net/netfilter");
    CHECK(box.text(box.system().conntrack_sysctl("max")) ==
          std::string(sysctls) + "max: No such file or directory (the module nf_conntrack is not loaded)");
}

TEST_CASE("sizing facts") {
    const Box box;
    const auto facts = box.system().sizing_facts();
    REQUIRE(facts);
    CHECK(*facts == SizingFacts{.memory_bytes = 2ULL << 30U,
                                .object_bytes = static_cast<std::uint64_t>(::sysconf(_SC_PAGESIZE)) / 16,
                                .object_measured = true,
                                .count = 0,
                                .max = 65'536,
                                .buckets = 16'384,
                                .writable = true});
}

TEST_CASE("the size of an object, with its slab's waste") {
    const auto page = static_cast<std::uint64_t>(::sysconf(_SC_PAGESIZE));
    const std::string slabinfo = "slabinfo - version: 2.1\n# name ...\n"
                                 "nf_conntrack_expect      0      0    208   19    1 : tunables    0    0    0\n"
                                 "nf_conntrack        1200   1275    320   25    2 : tunables    0    0    0\n";
    const Box box;
    box.put("sys/kernel/slab/nf_conntrack/order", "1\n");
    box.put("sys/kernel/slab/nf_conntrack/objs_per_slab", "25\n");
    CHECK(box.system().sizing_facts()->object_bytes == 2 * page / 25);
    box.put("proc/slabinfo", "nf_conntrack 1 2 3 1 1"); // sysfs goes first
    CHECK(box.system().sizing_facts()->object_bytes == 2 * page / 25);
    box.put("proc/slabinfo", slabinfo);
    box.remove("sys");
    CHECK(box.system().sizing_facts()->object_bytes == 2 * page / 25);
    CHECK(box.system().sizing_facts()->object_measured);
    box.put("proc/slabinfo", slabinfo.substr(0, slabinfo.find("nf_conntrack ")));
    CHECK(box.system().sizing_facts()->object_bytes == default_object_bytes);
    CHECK(!box.system().sizing_facts()->object_measured);
    box.remove("proc/slabinfo");
    CHECK(box.system().sizing_facts()->object_bytes == default_object_bytes);
    CHECK(!box.system().sizing_facts()->object_measured);
}

TEST_CASE("hostile files") {
    struct Case {
        fs::path path;
        std::string content;
        std::string text;
        bool without_sysfs = false;
    };
    const std::string slab = "sys/kernel/slab/nf_conntrack";
    const std::vector<Case> cases = {
        {"proc/meminfo", "", "proc/meminfo: \"\" is not a list with MemTotal"},
        {"proc/meminfo", "MemFree: 1 kB\n", "proc/meminfo: \"MemFree: 1 kB\" is not a list with MemTotal"},
        {"proc/meminfo", "MemTotal: 1 MB\n", "proc/meminfo: \"MemTotal: 1 MB\" is not a size in kB"},
        {"proc/meminfo", "MemTotal: 0 kB\n", "proc/meminfo: \"MemTotal: 0 kB\" is not a size in kB"},
        {"proc/meminfo", "MemTotal:\n", "proc/meminfo: \"MemTotal:\" is not a size in kB"},
        {"proc/meminfo", "MemTotal: 18014398509481984 kB\n",
         "proc/meminfo: \"MemTotal: 18014398509481984 kB\" is not a size in kB"},
        {slab + "/order", "x", slab + "/order: \"x\" is not a number"},
        {slab + "/order", "64", slab + "/order: \"64\" is not a slab's order"},
        {slab + "/objs_per_slab", "0", slab + ": \"0 objects in 4096 bytes\" is not a slab"},
        {slab + "/objs_per_slab", "5000", slab + ": \"5000 objects in 4096 bytes\" is not a slab"},
        {"proc/slabinfo", "nf_conntrack 1\n", "proc/slabinfo: \"nf_conntrack 1\" is not a line of slabinfo", true},
        {"proc/slabinfo", "nf_conntrack 1 2 3 0 1\n", "proc/slabinfo: \"0 objects in 4096 bytes\" is not a slab", true},
        {"proc/slabinfo", "nf_conntrack 1 2 3 4 9999\n",
         "proc/slabinfo: \"nf_conntrack 1 2 3 4 9999\" is not a line of slabinfo", true},
        {std::string(sysctls) + "max", "many", std::string(sysctls) + "max: \"many\" is not a number"},
        {std::string(sysctls) + "buckets", "", std::string(sysctls) + "buckets: \"\" is not a number"},
    };
    if (::sysconf(_SC_PAGESIZE) != 4096) return; // the texts say 4096
    for (const auto& row : cases) {
        const Box box;
        if (row.without_sysfs) box.remove("sys");
        box.put(row.path, row.content);
        CHECK(box.text(box.system().sizing_facts()) == row.text);
    }
    const Box box;
    box.remove("proc/meminfo");
    CHECK(box.text(box.system().sizing_facts()) == "proc/meminfo: No such file or directory");
}

TEST_CASE("knobs that may not be written") {
    if (::geteuid() == 0) return; // root may write any file; tests/netns shows the real thing
    const Box box;
    fs::permissions(box.root / (std::string(sysctls) + "buckets"), fs::perms::owner_read);
    CHECK(!box.system().sizing_facts()->writable);
    const auto refused = box.system().set_conntrack_sysctl("buckets", 1);
    CHECK(refused.error().error == EACCES);
}

TEST_CASE("asking whether knobs can be written writes nothing") {
    const Box box;
    REQUIRE(box.system().sizing_facts());
    CHECK(box.system().conntrack_sysctl("max") == 65'536);
    CHECK(box.system().conntrack_sysctl("buckets") == 16'384);
}

TEST_CASE("why the cache is unavailable") {
    const Box box;
    CHECK(box.system().cache_unavailable() ==
          "the module nf_ctcache is not loaded, and the kernel does not tell its release");
    box.put("proc/sys/kernel/osrelease", "6.1.0-56-amd64\n");
    const std::string absent =
        "the module nf_ctcache is not loaded, and not installed for the running kernel 6.1.0-56-amd64";
    CHECK(box.system().cache_unavailable() == absent);
    box.put("lib/modules/6.1.0-99-amd64/modules.dep", "updates/dkms/nf_ctcache.ko:\n"); // another kernel's
    CHECK(box.system().cache_unavailable() == absent);
    box.put("lib/modules/6.1.0-56-amd64/modules.dep",
            "kernel/net/a.ko: kernel/nf_ctcache.ko\nkernel/xnf_ctcache.ko:\n");
    CHECK(box.system().cache_unavailable() == absent);
    box.put("lib/modules/6.1.0-56-amd64/modules.dep", "kernel/a.ko:\nupdates/dkms/nf_ctcache.ko.xz: kernel/a.ko\n");
    CHECK(box.system().cache_unavailable() == "the module nf_ctcache is not loaded, although "
                                              "/lib/modules/6.1.0-56-amd64/updates/dkms/nf_ctcache.ko.xz is installed");
    fs::create_directories(box.root / "sys/module/nf_ctcache");
    CHECK(box.system().cache_unavailable().empty());
    box.remove("sys/module/nf_ctcache");
    box.put("proc/sys/kernel/osrelease", "../../etc");
    CHECK(box.system().cache_unavailable() ==
          "the module nf_ctcache is not loaded, and the kernel does not tell its release");
}
