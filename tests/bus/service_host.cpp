// The D-Bus service alone: an event loop, a snapshot, and standard input to change it.
//
//     service_host ADDRESS
//
// Each line is a command, answered by "ok" (or "?") on standard output once it has been published, so that a test need
// not wait. `state` answers with the connection's problem, or "well". The zones are "web" and "voice" at first.
#include "bus/service.hpp"

#include <fmt/format.h>
#include <spdlog/sinks/stdout_sinks.h>
#include <spdlog/spdlog.h>
#include <sys/epoll.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <map>
#include <sstream>
#include <thread>

using namespace ctcached;

namespace {

ZoneSnapshot zone(const std::string& name, std::uint16_t id) {
    return {.name = name,
            .id = id,
            .direction = "original",
            .match = "protocol tcp, ports 80",
            .cache = {"route", "ipsec"},
            .links = {"lan0"},
            .missing = {"lan1"},
            .flow_class = 7,
            .statistics = {{"flows", 1}, {"packets", 2}, {"bytes", 3}, {"elements", 4}}};
}

Snapshot first_snapshot() {
    Snapshot snapshot;
    snapshot.version = CTCACHED_VERSION;
    snapshot.generation = 1;
    snapshot.conntrack_count = 5;
    snapshot.conntrack_max = 65'536;
    snapshot.conntrack_buckets = 65'536;
    snapshot.cache_reason = "nf_ctcache is not loaded";
    snapshot.statistics = {{"insert_failed", 0}};
    snapshot.sizing = {{"arithmetic", "1 + 1"}, {"budget", 4096U}, {"writable", true}};
    snapshot.warnings = {"a.yaml:1:1: warning: an example"};
    snapshot.zones = {zone("web", 10), zone("voice", 11)};
    return snapshot;
}

class Host {
public:
    explicit Host(const std::string& address)
        : service_(event_, address,
                   {.snapshot = [this]() -> const Snapshot& { return snapshot_; },
                    .reload = [this] { return reload(); },
                    .check = [](std::string_view yaml) { return check_policy(yaml); },
                    .flush = [this] { return flush_; },
                    .flush_zone = [this](const std::string& name) { return flush_zone(name); }}) {
        service_.publish(snapshot_);
        input_ = event_.add_io(STDIN_FILENO, EPOLLIN, [this](std::uint32_t) { read_input(); });
    }
    int run() { return event_.run(); }

private:
    Result<void> reload() {
        if (!reload_) return reload_;
        ++snapshot_.generation;
        service_.publish(snapshot_);
        return {};
    }
    static Diagnostics check_policy(std::string_view yaml) {
        Diagnostics result;
        if (yaml == "costly") std::this_thread::sleep_for(std::chrono::milliseconds(2500)); // work, to the caller
        if (const auto at = yaml.find("bogus"); at != std::string_view::npos) {
            const auto line = static_cast<std::uint32_t>(1 + std::count(yaml.begin(), yaml.begin() + at, '\n'));
            result.entries.push_back({Severity::error, {0, line, 1}, "unknown key bogus"});
        }
        return result;
    }
    Result<void> flush_zone(const std::string& name) {
        for (const auto& zone : snapshot_.zones)
            if (zone.name == name) return flush_;
        return std::unexpected(Failure{ENOENT, "no zone " + name});
    }

    void read_input() {
        char buffer[4096];
        const ssize_t length = ::read(STDIN_FILENO, buffer, sizeof buffer);
        if (length <= 0) return event_.exit(0); // the test is gone
        pending_.append(buffer, static_cast<std::size_t>(length));
        for (auto end = pending_.find('\n'); end != std::string::npos; end = pending_.find('\n')) {
            std::istringstream line(pending_.substr(0, end));
            pending_.erase(0, end + 1);
            std::string verb;
            std::string argument;
            line >> verb;
            std::getline(line >> std::ws, argument);
            fmt::print("{}\n", command(verb, argument));
            std::fflush(stdout);
        }
    }

    std::string command(const std::string& verb, const std::string& argument) {
        if (verb == "state") return service_.problem().empty() ? "well" : service_.problem();
        const std::map<std::string, std::function<void()>> verbs = {
            {"pressure",
             [&] {
                 snapshot_.pressure = argument == "critical" ? Pressure::critical
                                      : argument == "warn"   ? Pressure::warn
                                                             : Pressure::ok;
             }},
            {"count",
             [&] {
                 snapshot_.conntrack_count = std::stoull(argument);
                 snapshot_.statistics["insert_failed"] = snapshot_.conntrack_count;
                 for (auto& each : snapshot_.zones) each.statistics["packets"] = snapshot_.conntrack_count;
             }},
            {"degrade", [&] { snapshot_.degraded = {argument}; }},
            {"recover", [&] { snapshot_.degraded.clear(); }},
            {"bytes", [&] { snapshot_.warnings = {"not text: \xff\xc0"}; }},
            {"add", [&] { snapshot_.zones.push_back(zone(argument, 100)); }},
            {"remove",
             [&] { std::erase_if(snapshot_.zones, [&](const ZoneSnapshot& each) { return each.name == argument; }); }},
            {"links", [&] { snapshot_.zones.at(0).links = {argument}; }},
            {"invalid",
             [&] {
                 reload_ = std::unexpected(Failure{0, "a.yaml:1:1: error: " + argument});
             }},
            {"refuse",
             [&] {
                 reload_ = flush_ = std::unexpected(Failure{ENOMEM, "batch: Cannot allocate memory"});
             }},
            {"accept", [&] { reload_ = flush_ = {}; }},
        };
        const auto found = verbs.find(verb);
        if (found == verbs.end()) return "?";
        found->second();
        service_.publish(snapshot_);
        return "ok";
    }

    Event event_;
    Snapshot snapshot_ = first_snapshot();
    Result<void> reload_;
    Result<void> flush_;
    Service service_;
    EventSource input_;
    std::string pending_;
};

} // namespace

int main(int argc, char** argv) {
    if (argc != 2) return 2;
    spdlog::set_default_logger(spdlog::stderr_logger_st("host"));
    try {
        return Host(argv[1]).run();
    } catch (const std::exception& error) {
        fmt::print(stderr, "{}\n", error.what());
        return 1;
    }
}
