// Links that come, go and change their names, each case in a network namespace of its own. No case sleeps: a link is
// there when `ip` returns, and its event is readable by then (rtmsg_ifinfo runs inside the request).
#define DOCTEST_CONFIG_IMPLEMENT
#include "kernel/rtnl.hpp"

#include <doctest/doctest.h>
#include <poll.h>
#include <sched.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <memory>

using namespace ctcached;

namespace {

using Names = std::vector<std::string>;

struct Namespace {
    Namespace() { REQUIRE(::unshare(CLONE_NEWNET) == 0); }
};

void ip(const std::string& lines) {
    const std::unique_ptr<FILE, int (*)(FILE*)> pipe(::popen("ip -batch -", "w"), ::pclose);
    REQUIRE(pipe);
    std::fputs(lines.c_str(), pipe.get());
}

Rtnl open_rtnl() {
    auto rtnl = Rtnl::open();
    REQUIRE_MESSAGE(rtnl, rtnl.error().text);
    return std::move(*rtnl);
}

bool readable(const Rtnl& rtnl, int milliseconds) {
    pollfd fd{.fd = rtnl.fd(), .events = POLLIN, .revents = 0};
    return ::poll(&fd, 1, milliseconds) == 1;
}

bool refresh(Rtnl& rtnl) {
    const auto changed = rtnl.refresh();
    REQUIRE_MESSAGE(changed, changed.error().text);
    CHECK(!readable(rtnl, 0)); // everything was taken in
    return *changed;
}

} // namespace

TEST_CASE_FIXTURE(Namespace, "links come, are renamed and go") {
    ip("link add old type veth peer name peer\n");
    auto rtnl = open_rtnl();
    CHECK(rtnl.links() == Names{"lo", "old", "peer"});
    CHECK(!readable(rtnl, 0));
    CHECK(!refresh(rtnl));

    ip("link add vb type veth peer name va\n");
    REQUIRE(readable(rtnl, 10'000));
    CHECK(refresh(rtnl));
    CHECK(rtnl.links() == Names{"lo", "old", "peer", "va", "vb"});

    ip("link set old name new\n");
    REQUIRE(readable(rtnl, 10'000));
    CHECK(refresh(rtnl));
    CHECK(rtnl.links() == Names{"lo", "new", "peer", "va", "vb"});

    ip("link set va up\n"); // an event, but not about a name
    REQUIRE(readable(rtnl, 10'000));
    CHECK(!refresh(rtnl));

    ip("link del peer\n");
    REQUIRE(readable(rtnl, 10'000));
    CHECK(refresh(rtnl));
    CHECK(rtnl.links() == Names{"lo", "va", "vb"});
}

TEST_CASE_FIXTURE(Namespace, "two links swap their names") {
    ip("link add va type veth peer name vb\n");
    auto rtnl = open_rtnl();
    ip("link set va name vt\nlink set vb name va\nlink set vt name vb\n");
    REQUIRE(readable(rtnl, 10'000));
    CHECK(!refresh(rtnl)); // the set of names is the same
    ip("link del va\n");
    CHECK(refresh(rtnl));
    CHECK(rtnl.links() == Names{"lo"});
}

TEST_CASE_FIXTURE(Namespace, "a link that leaves a bridge is still there") {
    ip("link add vbr type bridge\nlink add va type veth peer name vb\nlink set va master vbr\n");
    auto rtnl = open_rtnl();
    ip("link set va nomaster\n");
    REQUIRE(readable(rtnl, 10'000));
    CHECK(!refresh(rtnl));
    CHECK(rtnl.links() == Names{"lo", "va", "vb", "vbr"});
}

TEST_CASE_FIXTURE(Namespace, "lost events lead to a new list") {
    auto rtnl = open_rtnl();
    const int least = 1; // the kernel makes it 2,304 bytes: less than one event takes
    REQUIRE(::setsockopt(rtnl.fd(), SOL_SOCKET, SO_RCVBUF, &least, sizeof least) == 0);
    std::string lines;
    for (int i = 0; i < 50; ++i)
        lines += "link add va" + std::to_string(i) + " type veth peer name vb" + std::to_string(i) + "\n";
    lines += "link del va0\n";
    ip(lines);
    REQUIRE(readable(rtnl, 10'000));
    CHECK(refresh(rtnl));
    CHECK(rtnl.links().size() == 99);
    CHECK(!refresh(rtnl));
}

TEST_CASE_FIXTURE(Namespace, "the object stays with the namespace that it was opened in") {
    ip("link add va type veth peer name vb\n");
    auto rtnl = open_rtnl();
    REQUIRE(::unshare(CLONE_NEWNET) == 0);
    const auto other = open_rtnl();
    CHECK(other.links() == Names{"lo"});
    CHECK(!refresh(rtnl));
    CHECK(rtnl.links() == Names{"lo", "va", "vb"});
}

TEST_CASE_FIXTURE(Namespace, "moving the object keeps it working") {
    auto first = open_rtnl();
    auto second = std::move(first);
    ip("link add va type veth peer name vb\n");
    REQUIRE(readable(second, 10'000));
    CHECK(refresh(second));
    first = std::move(second);
    ip("link del va\n");
    CHECK(refresh(first));
    CHECK(first.links() == Names{"lo"});
}

int main(int argc, char** argv) {
    if (::geteuid() != 0 || ::unshare(CLONE_NEWNET) != 0) {
        std::puts("skipped: needs root");
        return 77;
    }
    return doctest::Context(argc, argv).run();
}
