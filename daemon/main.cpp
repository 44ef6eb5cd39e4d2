// Options, the log, the signal mask, and one try/catch: the rest is the manager's.
//
// Without an action the daemon runs in the foreground. The actions look at the same policy and, but for --clear, change
// nothing:
//
//     --check [PATH...]   errors and lints as file:line:col: severity: text; exit 0 clean, 1 warnings only, 2 errors
//     --print             the zone ids and the nftables text that would be applied
//     --diff              what would change in the running kernel
//     --clear             removes the table that a stopped daemon left, and switches the cache off; live flows lose
//                         their zones
//
// Exit codes otherwise: 0 done, 1 the system refused something, 2 the policy or the command line is wrong.
#include "base/error.hpp"
#include "kernel/cache.hpp"
#include "kernel/config.hpp"
#include "kernel/rtnl.hpp"
#include "kernel/state.hpp"
#include "kernel/table.hpp"
#include "manager.hpp"
#include "plan/build.hpp"
#include "plan/compile.hpp"
#include "plan/text.hpp"

#include <CLI/CLI.hpp>
#include <fmt/format.h>
#include <spdlog/sinks/stdout_color_sinks.h>
#include <spdlog/sinks/systemd_sink.h>
#include <spdlog/spdlog.h>
#include <sys/stat.h>

#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <vector>

namespace ctcached {

namespace {

enum ExitCode { done = 0, warnings = 1, refused = 1, invalid = 2 };

void print(const std::string& text) {
    if (std::fputs(text.c_str(), stdout) == EOF) throw_errno(errno, "standard output");
}

// The service manager says which stream is the journal by its device and inode (sd_journal_print(3), JOURNAL_STREAM).
bool stderr_is_journal() {
    const char* stream = std::getenv("JOURNAL_STREAM"); // NOLINT(concurrency-mt-unsafe): no threads yet
    struct stat status {};
    return stream && fstat(STDERR_FILENO, &status) == 0 && fmt::format("{}:{}", status.st_dev, status.st_ino) == stream;
}

void set_up_log() {
    if (stderr_is_journal()) {
        // The journal has time, level and place as fields of their own.
        auto sink = std::make_shared<spdlog::sinks::systemd_sink_mt>("ctcached");
        sink->set_pattern("%v");
        spdlog::set_default_logger(std::make_shared<spdlog::logger>("ctcached", std::move(sink)));
    } else {
        spdlog::set_default_logger(spdlog::stderr_color_mt("ctcached"));
        spdlog::set_pattern("%H:%M:%S.%e %^%l%$ %v");
    }
    spdlog::set_error_handler([](const std::string&) {}); // a full terminal is no reason to stop
}

// The table if it may be read; without the right to, what the state file says must do.
std::optional<ObservedTable> observed_table() {
    auto table = Table::open({}, false);
    if (!table) return {};
    auto observed = table->observe();
    return observed ? std::move(*observed) : std::nullopt;
}

ZoneTable remembered_zones(const Options& options, const std::optional<ObservedTable>& observed) {
    return merge_tables(State(options.state_dir).zones().value_or(ZoneTable{}),
                        observed ? zones_of(observed->ruleset) : ZoneTable{});
}

struct Looked {
    Diagnostics diagnostics;
    Compiled compiled;
};

Looked look(const Options& options, const ZoneTable& remembered) {
    Looked looked;
    const LoadedConfig config = load_config(options.config, looked.diagnostics);
    looked.compiled = compile(config.sources, remembered, looked.diagnostics);
    if (const auto rtnl = Rtnl::open()) lint_links(looked.compiled.policy, rtnl->links(), looked.diagnostics);
    return looked;
}

std::string explained(const Failure& failure) {
    const bool denied = failure.error == EPERM || failure.error == EACCES;
    return denied ? failure.text + " (ctcached must run as root, with CAP_NET_ADMIN)" : failure.text;
}

int give_up(const Failure& failure) {
    std::fputs(fmt::format("ctcached: {}\n", explained(failure)).c_str(), stderr);
    return refused;
}

std::string lines_of(const Diagnostics& diagnostics) {
    std::string text;
    for (const Diagnostic& entry : diagnostics.entries) text += diagnostics.to_text(entry) + '\n';
    return text;
}

int check_policy(const Options& options) {
    const Looked looked = look(options, remembered_zones(options, {}));
    print(lines_of(looked.diagnostics));
    return looked.diagnostics.has_errors() ? invalid : looked.diagnostics.empty() ? done : warnings;
}

int print_policy(const Options& options) {
    const Looked looked = look(options, remembered_zones(options, observed_table()));
    std::fputs(lines_of(looked.diagnostics).c_str(), stderr);
    if (looked.diagnostics.has_errors()) return invalid;
    print(to_text(looked.compiled.ids.zones) + to_text(looked.compiled.ruleset));
    return done;
}

int diff_policy(const Options& options) {
    auto table = Table::open({}, false);
    if (!table) return give_up(table.error());
    const auto observed = table->observe();
    if (!observed) return give_up(observed.error());
    const Looked looked = look(options, remembered_zones(options, *observed));
    std::fputs(lines_of(looked.diagnostics).c_str(), stderr);
    if (looked.diagnostics.has_errors()) return invalid;
    // Who owns the table is the daemon's affair, not the policy's.
    const AddTable flags = *observed ? (*observed)->flags : table->flags();
    print(to_text(diff(looked.compiled.ruleset, flags, *observed), looked.compiled.ruleset, *observed));
    return done;
}

int clear_table() {
    auto table = Table::open({}, false);
    const auto removed = table ? table->remove() : std::unexpected(table.error());
    if (!removed) return give_up(removed.error());
    auto cache = Cache::open(System());
    const auto cleared = cache ? cache->clear() : std::unexpected(cache.error());
    return cleared ? done : give_up(cleared.error());
}

int run_daemon(const Options& options) {
    sigset_t signals;
    sigemptyset(&signals);
    for (const int signal : {SIGTERM, SIGINT, SIGHUP}) sigaddset(&signals, signal);
    sigprocmask(SIG_BLOCK, &signals, nullptr);
    set_up_log();
    auto parts = open_parts(options);
    if (!parts) {
        SPDLOG_CRITICAL("not started: {}", explained(parts.error()));
        return refused;
    }
    Manager manager(options, std::move(*parts));
    if (const auto started = manager.start(); !started) {
        SPDLOG_CRITICAL("not started: {}", explained(started.error()));
        return started.error().error == 0 ? invalid : refused;
    }
    return manager.run();
}

int run(int argc, char** argv) {
    CLI::App app{"ctcached: conntrack zones by policy, and the size of the table that holds them", "ctcached"};
    app.set_version_flag("--version", "ctcached " CTCACHED_VERSION);
    Options options{.config = {}, .state_dir = "/var/lib/ctcached", .runtime_dir = "/run/ctcached", .bus = "system"};
    std::vector<std::string> config;
    std::vector<std::string> paths;
    bool check = false, print = false, diff = false, clear = false;
    app.add_option("--config", config, "policy file or folder instead of the default search path; repeatable")
        ->allow_extra_args(false);
    app.add_option("--state-dir", options.state_dir, "zone ids and the last good policy")->capture_default_str();
    app.add_option("--runtime-dir", options.runtime_dir, "the lock")->capture_default_str();
    app.add_option("--bus", options.bus, "system, session, none or a D-Bus address")->capture_default_str();
    auto* actions = app.add_option_group("actions", "instead of running the daemon");
    auto* check_flag = actions->add_flag(
        "--check", check, "report every error and lint of the policy (exit 0 clean, 1 warnings, 2 errors)");
    actions->add_flag("--print", print, "the zone ids and the nftables text that would be applied");
    actions->add_flag("--diff", diff, "what would change in the running kernel");
    actions->add_flag("--clear", clear, "remove the table that a stopped daemon left, and switch the cache off");
    actions->require_option(0, 1);
    app.add_option("path", paths, "files or folders for --check")->needs(check_flag);
    try {
        app.parse(argc, argv);
    } catch (const CLI::ParseError& error) {
        return app.exit(error) == 0 ? done : invalid;
    }
    std::ranges::move(paths, std::back_inserter(config));
    for (const std::string& path : config) options.config.push_back({path, false});
    if (config.empty()) options.config = default_config_paths();

    if (check) return check_policy(options);
    if (print) return print_policy(options);
    if (diff) return diff_policy(options);
    if (clear) return clear_table();
    return run_daemon(options);
}

} // namespace

} // namespace ctcached

int main(int argc, char** argv) {
    try {
        return ctcached::run(argc, argv);
    } catch (const std::exception& error) {
        std::fputs("ctcached: ", stderr);
        std::fputs(error.what(), stderr);
        std::fputc('\n', stderr);
        return ctcached::refused;
    }
}
