// The nftables socket against the running kernel, each case in a network namespace of its own.
//
// With --record=FOLDER it writes what the kernel says into FOLDER/<kernel's version> instead, for the tests of the
// codec (tests/data/nft): a dump of the sample table, one of a table of others, the answers to refused batches,
// notifications.
#define DOCTEST_CONFIG_IMPLEMENT
#include "kernel/nft.hpp"
#include "nft_sample.hpp"

#include <doctest/doctest.h>
#include <sched.h>
#include <sys/socket.h>
#include <sys/utsname.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <memory>

using namespace ctcached;
using namespace std::string_literals;

namespace {

// A new namespace per case; the kernel drops the old one with its last socket.
struct Namespace {
    Namespace() { REQUIRE(::unshare(CLONE_NEWNET) == 0); }
};

NftSocket open_socket() {
    auto socket = NftSocket::open();
    REQUIRE_MESSAGE(socket, socket.error().text);
    return std::move(*socket);
}

NftSocket::Observation observe(NftSocket& socket) {
    auto seen = socket.observe();
    REQUIRE_MESSAGE(seen, seen.error().text);
    return std::move(*seen);
}

void program(NftSocket& socket, const std::vector<Change>& changes) {
    auto done = socket.apply(changes, observe(socket).generation);
    REQUIRE_MESSAGE(done, done.error().failure.text);
}

struct Output {
    int status = 0;
    std::string text;
};

Output run(const std::string& command) {
    std::unique_ptr<FILE, int (*)(FILE*)> pipe(::popen(("exec 2>&1; " + command).c_str(), "r"), ::pclose);
    REQUIRE(pipe);
    Output output;
    for (int c = 0; (c = std::fgetc(pipe.get())) != EOF;) output.text.push_back(static_cast<char>(c));
    output.status = ::pclose(pipe.release());
    return output;
}

// A table of our name with everything that makes it another one, and two that only look like it.
Output load_foreign_table() {
    return run(R"(nft -f - <<'END'
table inet ctcached {
    flags dormant
    set zones { typeof ct zone; timeout 1h; counter; }
    map sized { typeof meta mark : ct zone; size 10; counter; }
    map plain { typeof meta mark : ct zone; elements = { 1 : 2 } }
    map any { typeof meta mark : ct zone; counter; elements = { * : 7 }; }
    set ports { typeof tcp dport; }
    chain d {
    }
    chain c {
        type filter hook prerouting priority raw; policy drop;
        meta mark | 0x1 == 3 return
        meta mark > 3 return
        ct reply zone set 5
        meta mark set 7
        tcp dport != @ports counter goto d
    }
}
table ip ctcached {
    chain elsewhere {
    }
}
table inet other {
    set zones { typeof ct zone; }
}
END
)");
}

} // namespace

TEST_CASE_FIXTURE(Namespace, "what is written is what is read") {
    auto socket = open_socket();
    CHECK_FALSE(observe(socket).table);
    program(socket, sample::creation(sample::ruleset(), {}));
    auto seen = observe(socket);
    REQUIRE(seen.table);
    CHECK(seen.table->flags == AddTable{});
    CHECK(seen.table->owner == 0);
    auto want = sample::ruleset();
    REQUIRE(seen.table->ruleset.sets.size() == want.sets.size());
    for (std::size_t i = 0; i < want.sets.size(); ++i) {
        INFO(want.sets[i].name);
        CHECK(seen.table->ruleset.sets[i].foreign.empty());
        CHECK(sample::same(seen.table->ruleset.sets[i], want.sets[i]));
    }
    REQUIRE(seen.table->ruleset.chains.size() == want.chains.size());
    for (std::size_t i = 0; i < want.chains.size(); ++i) {
        INFO(want.chains[i].name);
        CHECK(sample::same(seen.table->ruleset.chains[i], want.chains[i]));
    }
}

TEST_CASE_FIXTURE(Namespace, "nft lists the table with typeof, and loads its own listing") {
    auto socket = open_socket();
    program(socket, sample::creation(sample::ruleset(), {}));
    auto list = run("nft list table inet ctcached");
    INFO(list.text);
    CHECK(list.status == 0);
    for (const char* line :
         {"typeof iifname : ct zone", "typeof ip saddr : ct zone",
          "typeof ip6 saddr . iifname . meta l4proto . th dport : ct zone", "typeof meta mark : ct zone",
          "typeof meta l4proto . th dport : ct zone", "typeof ct zone\n", "comment \"web original\"",
          "ct original zone set meta l4proto . th dport map @proto_dport accept",
          "\"vlan*\" counter packets 0 bytes 0 : 11", "10.20.0.0/16 counter packets 0 bytes 0 : 12",
          "ct zone set meta mark & 0x000000ff map @markm accept"}) {
        INFO(line);
        CHECK(list.text.find(line) != std::string::npos);
    }
    auto reload = run("t=$(nft list table inet ctcached) && nft delete table inet ctcached && echo \"$t\" | nft -f -");
    INFO(reload.text);
    CHECK(reload.status == 0);
    CHECK(observe(socket).table);
}

TEST_CASE_FIXTURE(Namespace, "elements change zone within one transaction") {
    auto socket = open_socket();
    program(socket, sample::creation(sample::ruleset(), {}));
    auto want = sample::ruleset();
    std::vector<Change> changes;
    for (auto& set : want.sets) {
        if (!set.map) continue;
        auto moved = std::ranges::find(set.elements, false, &Element::interval_end);
        // A range of single keys is deleted and added with its end; the end that its neighbour shares stays.
        std::vector<Element> range{*moved};
        if (set.interval && set.fields.empty()) range.push_back(*std::next(moved));
        changes.emplace_back(DeleteElements{set.name, range});
        moved->zone = 99;
        range.front().zone = 99;
        changes.emplace_back(AddElements{set.name, range});
    }
    program(socket, changes);
    CHECK(sample::same(observe(socket).table->ruleset, want));
}

TEST_CASE_FIXTURE(Namespace, "sets, chains and rules come and go in place") {
    auto socket = open_socket();
    program(socket, sample::creation(sample::ruleset(), {}));
    auto want = sample::ruleset();
    auto chain = std::ranges::find(want.chains, "prerouting", &Chain::name);
    chain->rules.erase(chain->rules.begin() + 3); // the only one that looks at the mark
    std::vector<Change> changes{FlushChain{"prerouting"}};
    for (const auto& rule : chain->rules) changes.emplace_back(AddRule{"prerouting", rule});
    changes.emplace_back(DeleteSet{"markm"});
    std::erase_if(want.sets, [](const Set& set) { return set.name == "markm"; });
    changes.emplace_back(AddChain{"spare", {}});
    changes.emplace_back(AddRule{"spare", {Verdict{VerdictKind::returns, {}}}});
    program(socket, changes);
    want.chains.push_back({"spare", {}, {{Verdict{VerdictKind::returns, {}}}}});
    CHECK(sample::same(observe(socket).table->ruleset, want));
    program(socket, {FlushChain{"spare"}, DeleteChain{"spare"}});
    want.chains.pop_back();
    CHECK(sample::same(observe(socket).table->ruleset, want));
    program(socket, {DeleteTable{}});
    CHECK_FALSE(observe(socket).table);
}

TEST_CASE_FIXTURE(Namespace, "a stale generation is a race, and nothing happens") {
    auto socket = open_socket();
    auto generation = observe(socket).generation;
    program(socket, {AddTable{}});
    auto late = socket.apply({DeleteTable{}}, generation);
    REQUIRE_FALSE(late);
    CHECK(late.error().raced);
    CHECK(late.error().failure.error == ERESTART);
    CHECK(observe(socket).table);
}

TEST_CASE_FIXTURE(Namespace, "a refusal names its change, and takes the whole transaction back") {
    auto socket = open_socket();
    program(socket, sample::creation(sample::ruleset(), {}));
    auto before = observe(socket);
    auto refuse = [&](std::vector<Change> changes) {
        changes.insert(changes.begin(), AddChain{"innocent", {}});
        changes.emplace_back(DeleteChain{"there_is_none"}); // a second error, which is not the one reported
        auto done = socket.apply(changes, before.generation);
        REQUIRE_FALSE(done);
        CHECK_FALSE(done.error().raced);
        CHECK(sample::same(observe(socket).table->ruleset, before.table->ruleset));
        return done.error().failure;
    };
    auto twice = refuse({AddElements{
        "markm", {sample::start("\1\0\0\0"s, 1), sample::start("\2\0\0\0"s, 2), sample::start("\5\0\0\0"s, 3)}}});
    CHECK(twice.error == EEXIST);
    CHECK(twice.text.find("map markm: add 3 elements: ") == 0);
    CHECK(twice.text.find("File exists (EEXIST)") != std::string::npos);
    CHECK(refuse({DeleteSet{"zones"}}).text.find("set zones: delete: ") == 0);
    CHECK(refuse({AddRule{"output", {Lookup{"missing", 0, {}}}}}).text.find("chain output: add a rule: ") == 0);
    CHECK(refuse({AddChain{"x", Hook{"nonsense", 0, 0}}}).text.find("chain x: create: ") == 0);
}

TEST_CASE_FIXTURE(Namespace, "thousands of refusals are read without loss") {
    auto socket = open_socket();
    std::vector<Change> changes;
    for (int i = 0; i < 5000; ++i) changes.emplace_back(FlushChain{"none" + std::to_string(i)});
    auto done = socket.apply(changes, observe(socket).generation);
    REQUIRE_FALSE(done);
    CHECK(done.error().failure.error == ENOENT);
    CHECK(done.error().failure.text.find("chain none0: flush: ") == 0);
    CHECK_FALSE(observe(socket).table); // and the socket is as good as before
}

TEST_CASE_FIXTURE(Namespace, "what others put into the table is never equal to ours") {
    auto socket = open_socket();
    auto foreign = load_foreign_table();
    REQUIRE_MESSAGE(foreign.status == 0, foreign.text);
    auto seen = observe(socket);
    REQUIRE(seen.table);
    CHECK(seen.table->flags == AddTable{.owner = false, .persist = false, .dormant = true});
    CHECK(seen.table->ruleset.sets.size() == 5);
    for (const auto& set : seen.table->ruleset.sets) {
        INFO(set.name);
        CHECK(set.foreign.empty() == (set.name == "any"));
    }
    const auto& any = seen.table->ruleset.sets.front();
    REQUIRE(any.elements.size() == 1);
    CHECK(any.elements.front().key.empty());
    REQUIRE(seen.table->ruleset.chains.size() == 2);
    const auto& chain = seen.table->ruleset.chains.front();
    REQUIRE(chain.hook);
    CHECK(chain.hook->type == "filter, policy drop");
    REQUIRE(chain.rules.size() == 5);
    for (const auto& rule : chain.rules)
        CHECK(std::ranges::any_of(rule, [](const auto& e) { return std::holds_alternative<Foreign>(e); }));
    program(socket, {DeleteElements{"any", any.elements}});
    CHECK(observe(socket).table->ruleset.sets.front().elements.empty());
}

TEST_CASE_FIXTURE(Namespace, "ten thousand elements are one transaction") {
    using Clock = std::chrono::steady_clock;
    auto number = [](std::uint32_t i) { // network order
        return Bytes{static_cast<char>(i >> 24U), static_cast<char>(i >> 16U), static_cast<char>(i >> 8U),
                     static_cast<char>(i)};
    };
    constexpr std::uint32_t count = 10'000;
    std::vector<Element> hash;
    std::vector<Element> ranges{sample::end(number(0))};
    std::vector<Element> boxes;
    for (std::uint32_t i = 1; i <= count; ++i) {
        hash.push_back(sample::start(number(i), static_cast<std::uint16_t>(i % 100)));
        ranges.push_back(sample::start(number(i << 8U), static_cast<std::uint16_t>(i % 100)));
        ranges.push_back(sample::end(number((i << 8U) + 16)));
        boxes.push_back(sample::start(number(i << 8U) + sample::protocol_port(6, 80),
                                      static_cast<std::uint16_t>(i % 100),
                                      number((i << 8U) + 15) + sample::protocol_port(6, 90)));
    }
    const Set kinds[]{
        sample::make_set("hash", "ip saddr", {7, 4, {}, true, false}, hash),
        sample::make_set("ranges", "ip saddr", {7, 4, {}, true, true}, ranges),
        sample::make_set("boxes", "ip saddr . meta l4proto . th dport", {0x730d, 12, {4, 1, 2}, true, true}, boxes)};
    for (const auto& set : kinds) {
        REQUIRE(::unshare(CLONE_NEWNET) == 0);
        auto socket = open_socket();
        auto changes = sample::creation({.sets = {set}, .chains = {}}, {});
        auto generation = observe(socket).generation;
        auto start = Clock::now();
        auto done = socket.apply(changes, generation);
        auto applied = Clock::now();
        REQUIRE_MESSAGE(done, done.error().failure.text);
        auto seen = observe(socket);
        auto read = Clock::now();
        REQUIRE(seen.table);
        CHECK(sample::same(seen.table->ruleset.sets.front(), set));
        auto elements = socket.elements(set.name);
        REQUIRE(elements);
        CHECK(elements->size() == set.elements.size());
        Element& one = changes.size() == 3 ? std::get<AddElements>(changes.back()).elements.front() : hash.front();
        auto single = Clock::now();
        program(socket, {DeleteElements{set.name, {one}}});
        auto deleted = Clock::now();
        auto ms = [](auto from, auto to) { return std::chrono::duration<double, std::milli>(to - from).count(); };
        std::printf("%s: apply %.1f ms, observe %.1f ms, observe and delete one %.1f ms\n", set.name.c_str(),
                    ms(start, applied), ms(applied, read), ms(single, deleted));
    }
}

TEST_CASE_FIXTURE(Namespace, "elements of a set that is not there") {
    auto socket = open_socket();
    program(socket, {AddTable{}});
    auto elements = socket.elements("none");
    REQUIRE_FALSE(elements);
    CHECK(elements.error().error == ENOENT);
}

TEST_CASE_FIXTURE(Namespace, "probes leave no trace") {
    auto socket = open_socket();
    auto monitor = NftMonitor::open();
    REQUIRE(monitor);
    auto before = observe(socket).generation;
    CHECK(socket.supports_owner()); // every kernel that we support: Linux >= 5.12
    (void)socket.supports_persist();
    CHECK(observe(socket).generation == before);
    CHECK(run("nft list ruleset").text.empty());
    auto events = monitor->read(0);
    REQUIRE(events);
    CHECK(events->events.empty());
}

TEST_CASE_FIXTURE(Namespace, "an owned table is changed by its socket alone, whoever holds it") {
    auto owner = open_socket();
    program(owner, sample::creation(sample::ruleset(), {.owner = true}));
    auto other = open_socket();
    CHECK(observe(other).table->owner == owner.port());
    auto refused = other.apply({DeleteTable{}}, observe(other).generation);
    REQUIRE_FALSE(refused);
    CHECK(refused.error().failure.error == EPERM);
    CHECK(run("nft flush ruleset").status == 0);
    CHECK(observe(other).table);

    // The daemon dies while another process (a service manager) keeps the socket; the next daemon gets it back.
    int kept = ::dup(owner.fd());
    const auto port = owner.port();
    { auto dies = std::move(owner); }
    REQUIRE(observe(other).table);
    auto heir = NftSocket::open(Fd(kept));
    REQUIRE_MESSAGE(heir, heir.error().text);
    CHECK(heir->port() == port);
    program(*heir, {DeleteElements{"markm", {sample::start("\5\0\0\0"s, 13)}}});
    CHECK(sample::same(observe(*heir).table->ruleset.chains.front(), sample::chains().front()));

    { auto last = std::move(*heir); }
    CHECK_FALSE(observe(other).table); // without persist the table goes with its owner
}

TEST_CASE_FIXTURE(Namespace, "a socket with old answers in its queue is adopted all the same") {
    auto first = open_socket();
    program(first, sample::creation(sample::ruleset(), {.owner = true}));
    auto request = encode_query(NftQuery::rules, 1);
    REQUIRE(::send(first.fd(), request.data(), request.size(), 0) == static_cast<ssize_t>(request.size()));
    auto second = NftSocket::open(Fd(::dup(first.fd())));
    REQUIRE_MESSAGE(second, second.error().text);
    CHECK(sample::same(observe(*second).table->ruleset, sample::ruleset()));
    CHECK(NftSocket::open(Fd(::dup(STDOUT_FILENO))).error().error == EPROTOTYPE);
}

TEST_CASE_FIXTURE(Namespace, "a table that outlived its owner is taken over") {
    auto socket = open_socket();
    if (!socket.supports_persist()) {
        std::puts("not tested: this kernel has no persistent tables (Linux >= 6.9)");
        return;
    }
    const AddTable flags{.owner = true, .persist = true};
    {
        auto owner = open_socket();
        program(owner, sample::creation(sample::ruleset(), flags));
    }
    auto orphan = observe(socket);
    REQUIRE(orphan.table);
    CHECK(orphan.table->owner == 0);
    CHECK(orphan.table->flags == AddTable{.owner = false, .persist = true});
    program(socket, {flags, AddChain{"new", {}}});
    auto adopted = observe(socket);
    CHECK(adopted.table->owner == socket.port());
    CHECK(adopted.table->flags == flags);
    auto other = open_socket();
    CHECK(other.apply({DeleteTable{}}, adopted.generation).error().failure.error == EPERM);
}

TEST_CASE_FIXTURE(Namespace, "the monitor tells who did what, and coalesces") {
    auto monitor = NftMonitor::open();
    REQUIRE(monitor);
    auto socket = open_socket();
    program(socket, sample::creation(sample::ruleset(), {}));
    auto own = monitor->read(socket.port());
    REQUIRE(own);
    CHECK(own->events.empty());

    REQUIRE(run("nft delete element inet ctcached proto_dport '{ tcp . 80, tcp . 443 }'").status == 0);
    REQUIRE(run("nft add table inet unrelated").status == 0);
    REQUIRE(run("nft add rule inet ctcached output counter").status == 0);
    REQUIRE(run("nft delete table inet ctcached").status == 0);
    auto batch = monitor->read(socket.port());
    REQUIRE(batch);
    CHECK_FALSE(batch->lost);
    std::vector<std::string> texts;
    for (const auto& event : batch->events) {
        texts.push_back(event.text);
        CHECK(event.process == "nft");
        CHECK(event.pid != 0);
        CHECK(event.port != 0);
    }
    auto told = [&](const char* text) { return std::ranges::find(texts, text) != texts.end(); };
    CHECK(told("map proto_dport: 2 elements removed"));
    CHECK(told("chain output: rule added"));
    CHECK(told("table deleted"));
    CHECK(monitor->read(socket.port())->events.empty());
}

TEST_CASE_FIXTURE(Namespace, "a monitor that was too slow says so") {
    auto monitor = NftMonitor::open();
    REQUIRE(monitor);
    const int small = 1;
    REQUIRE(::setsockopt(monitor->fd(), SOL_SOCKET, SO_RCVBUF, &small, sizeof small) == 0);
    auto socket = open_socket();
    program(socket, sample::creation(sample::ruleset(), {}));
    auto batch = monitor->read(0);
    REQUIRE(batch);
    CHECK(batch->lost);
}

TEST_CASE_FIXTURE(Namespace, "without the right to configure networks there is no socket") {
    auto child = ::fork();
    REQUIRE(child >= 0);
    if (child == 0) {
        auto socket = ::setuid(65534) == 0 ? NftSocket::open() : failure(0, "setuid");
        ::_exit(!socket && socket.error().error == EPERM ? 0 : 1);
    }
    int status = -1;
    REQUIRE(::waitpid(child, &status, 0) == child);
    CHECK(status == 0);
}

// --- the recorder ---

namespace {

std::string answers(int fd) {
    std::string all;
    std::string buffer(64 * 1024, '\0');
    for (ssize_t n = 0; (n = ::recv(fd, buffer.data(), buffer.size(), MSG_DONTWAIT)) > 0;)
        all.append(buffer, 0, static_cast<std::size_t>(n));
    return all;
}

std::string ask(int fd, const std::string& request) {
    REQUIRE(::send(fd, request.data(), request.size(), 0) == static_cast<ssize_t>(request.size()));
    return answers(fd);
}

std::string dump_table(NftSocket& socket) {
    std::string all;
    for (auto what : {NftQuery::generation, NftQuery::table, NftQuery::chains, NftQuery::rules, NftQuery::sets})
        all += ask(socket.fd(), encode_query(what, 1));
    const auto seen = observe(socket);
    for (const auto& set : seen.table->ruleset.sets)
        all += ask(socket.fd(), encode_query(NftQuery::elements, 1, set.name));
    return all;
}

} // namespace

TEST_CASE_FIXTURE(Namespace, "record") {
    const char* parent = std::getenv("NFT_RECORD");
    if (!parent) return;
    utsname system{};
    REQUIRE(::uname(&system) == 0);
    const auto folder = std::filesystem::path(parent) / system.release;
    auto write = [&](const char* name, const std::string& bytes) {
        std::ofstream file(folder / name, std::ios::binary);
        file.write(bytes.data(), static_cast<std::streamsize>(bytes.size())).flush();
        REQUIRE(file);
    };
    std::filesystem::create_directories(folder);
    auto monitor = NftMonitor::open();
    auto socket = open_socket();
    program(socket, sample::creation(sample::ruleset(), {.owner = true}));
    write("sample", dump_table(socket));
    auto generation = observe(socket).generation;
    const Change twice = AddElements{"markm", {sample::start("\5\0\0\0"s, 3)}};
    write("refused", ask(socket.fd(), encode_batch({AddTable{.owner = true}, twice}, generation, 1).bytes));
    write("raced", ask(socket.fd(), encode_batch({twice}, generation - 1, 1).bytes));
    write("missing", ask(socket.fd(), encode_query(NftQuery::elements, 1, "none")));
    (void)answers(monitor->fd());
    program(socket, {DeleteElements{"proto_dport", sample::sets()[5].elements}, DeleteTable{}});
    write("events", answers(monitor->fd()));
    REQUIRE(load_foreign_table().status == 0);
    write("foreign", dump_table(socket));
}

int main(int argc, char** argv) {
    if (::geteuid() != 0 || ::unshare(CLONE_NEWNET) != 0) {
        std::puts("skipped: needs root");
        return 77;
    }
    return doctest::Context(argc, argv).run();
}
