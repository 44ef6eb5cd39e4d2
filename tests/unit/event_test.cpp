// The event loop, its sources and the path watch, on a real loop: each case runs until the callback under test ends it.
// A timer of ten seconds ends a case whose callback never comes.
#include "base/event.hpp"
#include "base/path_watch.hpp"

#include <doctest/doctest.h>
#include <sys/epoll.h>
#include <unistd.h>

#include <csignal>
#include <filesystem>
#include <fstream>
#include <stdexcept>
#include <system_error>

using namespace ctcached;
using namespace std::chrono_literals;
namespace fs = std::filesystem;

namespace {

constexpr int timed_out = 99;

// A folder of its own, removed at the end.
struct Folder {
    fs::path path;
    Folder() {
        std::string name = (fs::temp_directory_path() / "ctcached-test.XXXXXX").string();
        REQUIRE(mkdtemp(name.data()) != nullptr);
        path = name;
    }
    Folder(const Folder&) = delete;
    Folder& operator=(const Folder&) = delete;
    ~Folder() { fs::remove_all(path); }
};

void write(const fs::path& path, std::string_view text) {
    std::ofstream file(path);
    file << text;
    REQUIRE(file.good());
}

// Runs `act` in a running loop and says whether the watch of `path` told of it.
bool tells(const fs::path& path, const std::function<void()>& act) {
    Event event;
    int calls = 0;
    PathWatch watch(event, path, [&] {
        ++calls;
        event.exit(0);
    });
    auto limit = event.add_timer(10s, [&] { event.exit(timed_out); });
    auto start = event.add_defer(act);
    return event.run() == 0 && calls > 0;
}

} // namespace

TEST_CASE("timers run in order, once, and again after restart") {
    Event event;
    std::string order;
    EventSource again;
    auto late = event.add_timer(20ms, [&] {
        order += 'c';
        event.exit(7);
    });
    auto early = event.add_timer(1ms, [&] {
        order += 'a';
        if (order == "a") Event::restart(again, 2ms);
    });
    again = event.add_timer(1h, [&] { order += 'b'; });
    CHECK(event.run() == 7);
    CHECK(order == "abc");
}

TEST_CASE("a descriptor's callback gets the events, and stops when the source is off") {
    int ends[2];
    REQUIRE(pipe(ends) == 0);
    Fd reader(ends[0]);
    Fd writer(ends[1]);
    Event event;
    std::uint32_t seen = 0;
    int calls = 0;
    EventSource source;
    EventSource end;
    source = event.add_io(reader.get(), EPOLLIN, [&](std::uint32_t revents) {
        seen = revents;
        ++calls;
        source.enable(false); // the byte is not read: level-triggered, it would be told for ever
        end = event.add_defer([&] { event.exit(0); });
    });
    REQUIRE(::write(writer.get(), "x", 1) == 1);
    CHECK(event.run() == 0);
    CHECK(seen == EPOLLIN);
    CHECK(calls == 1);
}

TEST_CASE("an exception ends the loop and comes out of run()") {
    Event event;
    auto bad = event.add_defer([] { throw std::runtime_error("from a callback"); });
    auto limit = event.add_timer(10s, [&] { event.exit(timed_out); });
    CHECK_THROWS_WITH_AS(event.run(), "from a callback", std::runtime_error);
}

TEST_CASE("guard() returns the given value for an exception, and the loop throws the first one") {
    Event event;
    CHECK(event.guard(5, [] { return 3; }) == 3);
    auto start = event.add_defer([&] {
        CHECK(event.guard(-1, []() -> int { throw std::runtime_error("first"); }) == -1);
        CHECK(event.guard(-1, []() -> int { throw std::logic_error("second"); }) == -1);
    });
    CHECK_THROWS_WITH_AS(event.run(), "first", std::runtime_error);
}

TEST_CASE("a callback may drop its own source; the function dies with it") {
    Event event;
    auto token = std::make_shared<int>(0);
    EventSource source;
    source = event.add_timer(1ms, [&, token] {
        source = {};
        CHECK(token.use_count() > 1); // still alive: we run in it
        event.exit(0);
    });
    CHECK(token.use_count() == 2);
    CHECK(event.run() == 0);
    CHECK(token.use_count() == 1);
}

TEST_CASE("a moved source still works, a dropped one never runs") {
    Event event;
    bool ran = false;
    auto one = event.add_timer(1ms, [&] { event.exit(0); });
    auto moved = std::move(one);
    {
        auto dropped = event.add_timer(0ms, [&] { ran = true; });
        CHECK(static_cast<bool>(dropped));
    }
    CHECK(event.run() == 0);
    CHECK_FALSE(ran);
}

TEST_CASE("signals") {
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGUSR1);
    REQUIRE(pthread_sigmask(SIG_BLOCK, &set, nullptr) == 0);
    Event event;
    auto source = event.add_signal(SIGUSR1, [&] { event.exit(3); });
    auto start = event.add_defer([] { REQUIRE(raise(SIGUSR1) == 0); });
    CHECK(event.run() == 3);
}

TEST_CASE("what must work throws with the object: a descriptor that is not open") {
    Event event;
    CHECK_THROWS_AS((void)event.add_io(-1, EPOLLIN, [](std::uint32_t) {}), std::system_error);
    auto missing = event.add_inotify("/nonexistent/folder", IN_CREATE, [](const inotify_event&) {});
    REQUIRE_FALSE(missing.has_value());
    CHECK(missing.error().error == ENOENT);
    CHECK(missing.error().text == "/nonexistent/folder: watch: No such file or directory");
}

TEST_CASE("a path watch tells of every way in which a file changes") {
    Folder folder;
    const auto file = folder.path / "policy.yaml";
    SUBCASE("it comes into being") {
        CHECK(tells(file, [&] { write(file, "a"); }));
    }
    SUBCASE("its folders come into being") {
        const auto deep = folder.path / "a" / "b" / "policy.yaml";
        CHECK(tells(deep, [&] { fs::create_directories(deep.parent_path()); }));
    }
    SUBCASE("it is written in place") {
        write(file, "a");
        CHECK(tells(file, [&] { write(file, "b"); }));
    }
    SUBCASE("it is replaced by a rename") {
        write(file, "a");
        write(folder.path / "new", "b");
        CHECK(tells(file, [&] { fs::rename(folder.path / "new", file); }));
    }
    SUBCASE("it is deleted") {
        write(file, "a");
        CHECK(tells(file, [&] { fs::remove(file); }));
    }
    SUBCASE("its folder is moved away") {
        fs::create_directory(folder.path / "d");
        write(folder.path / "d" / "f", "a");
        CHECK(tells(folder.path / "d" / "f", [&] { fs::rename(folder.path / "d", folder.path / "e"); }));
    }
    SUBCASE("it is a link and its target is written") {
        write(folder.path / "target", "a");
        fs::create_symlink(folder.path / "target", file);
        CHECK(tells(file, [&] { write(folder.path / "target", "b"); }));
    }
    SUBCASE("an entry of a watched folder, named with a slash at the end") {
        CHECK(tells(folder.path / "", [&] { write(file, "a"); }));
    }
}

TEST_CASE("a path watch follows a file through a whole life, and keeps quiet about its neighbours") {
    Folder folder;
    const auto file = folder.path / "d" / "policy.yaml";
    // Each step must be told before the next one is taken.
    const std::function<void()> steps[] = {
        [&] { fs::create_directory(folder.path / "d"); },
        [&] { write(file, "a"); },
        [&] { write(file, "b"); },
        [&] { fs::rename(folder.path / "d", folder.path / "e"); },
        [&] { fs::rename(folder.path / "e", folder.path / "d"); },
        [&] { write(file, "c"); },
    };
    Event event;
    std::size_t step = 0;
    bool told = false;
    EventSource next;
    PathWatch watch(event, file, [&] { told = true; });
    auto limit = event.add_timer(10s, [&] { event.exit(timed_out); });
    next = event.add_defer([&] {
        // Runs when nothing else is ready, so everything that a step caused has been told.
        if (step == std::size(steps)) {
            told = false;
            write(folder.path / "neighbour", "x");
            write(folder.path / "d" / "neighbour", "x");
            ++step;
            next.enable(true);
            return;
        }
        if (step > std::size(steps)) return event.exit(0);
        if (step > 0) CHECK_MESSAGE(told, "step ", step - 1);
        told = false;
        steps[step++]();
        next.enable(true);
    });
    CHECK(event.run() == 0);
    CHECK_FALSE(told);
    CHECK(step == std::size(steps) + 1);
}
