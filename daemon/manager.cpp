#include "manager.hpp"

#include "kernel/rivals.hpp"
#include "plan/build.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <fmt/ranges.h>
#include <spdlog/spdlog.h>
#include <sys/epoll.h>
#include <sys/file.h>
#include <systemd/sd-daemon.h>

#include <algorithm>
#include <csignal>
#include <cstdlib>
#include <system_error>

namespace ctcached {

using namespace std::chrono_literals;

namespace {

constexpr const char* stored_socket_name = "nftables";
// An editor writes several times; a package manager several files.
constexpr auto debounce_time = 200ms;
// Counters that are shown are at most this old.
constexpr auto snapshot_age = 1s;
// Someone who changes the table again and again is undone at this pace.
constexpr auto slowest_repair = 500ms;

// RELOADING=1 now, READY=1 when the scope is left, whichever way. Not at the start: a service that has no policy is not
// ready.
class Reloading {
public:
    explicit Reloading(bool running) : running_(running) {
        if (!running_) return;
        const auto now =
            std::chrono::duration_cast<std::chrono::microseconds>(std::chrono::steady_clock::now().time_since_epoch());
        sd_notifyf(0, "RELOADING=1\nMONOTONIC_USEC=%lld", static_cast<long long>(now.count()));
    }
    Reloading(const Reloading&) = delete;
    Reloading& operator=(const Reloading&) = delete;
    ~Reloading() {
        if (running_) sd_notify(0, "READY=1");
    }

private:
    bool running_;
};

// The socket that an earlier run left with the service manager, if any; other descriptors are closed.
Fd stored_socket() {
    char** raw_names = nullptr;
    const int count = check(sd_listen_fds_with_names(1, &raw_names), "sd_listen_fds_with_names");
    std::vector<Handle<char, std::free>> names;
    names.reserve(static_cast<std::size_t>(count));
    for (int i = 0; i < count; ++i) names.emplace_back(raw_names[i]);
    const Handle<char*, std::free> list(raw_names);
    Fd found;
    for (int i = 0; i < count; ++i) {
        Fd fd(SD_LISTEN_FDS_START + i);
        if (std::string_view(names[static_cast<std::size_t>(i)].get()) == stored_socket_name) found = std::move(fd);
    }
    return found;
}

// One daemon per runtime folder: two would fight for one table.
Result<Fd> lock(const std::filesystem::path& folder) {
    std::error_code error;
    std::filesystem::create_directories(folder, error);
    if (error) return failure(error.value(), folder.string());
    const auto path = folder / "lock";
    Fd fd(::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600));
    if (!fd) return failure(errno, path.string());
    if (::flock(fd.get(), LOCK_EX | LOCK_NB) != 0)
        return errno == EWOULDBLOCK ? failure(EBUSY, fmt::format("{}: another ctcached runs", path.string()))
                                    : failure(errno, path.string());
    return fd;
}

} // namespace

Result<Parts> open_parts(const Options& options) {
    auto locked = lock(options.runtime_dir);
    if (!locked) return std::unexpected(locked.error());
    Fd stored = stored_socket();
    const bool was_stored = static_cast<bool>(stored);
    auto table =
        Table::open(std::move(stored), std::getenv("NOTIFY_SOCKET") != nullptr); // NOLINT(concurrency-mt-unsafe)
    if (!table) return std::unexpected(table.error());
    auto conntrack = Conntrack::open(System());
    if (!conntrack) return std::unexpected(conntrack.error());
    auto cache = Cache::open(System());
    if (!cache) return std::unexpected(cache.error());
    auto rtnl = Rtnl::open();
    if (!rtnl) return std::unexpected(rtnl.error());
    const bool store_socket = !was_stored && table->wants_store();
    return Parts{std::move(*locked), std::move(*table), std::move(*conntrack),
                 std::move(*cache),  std::move(*rtnl),  store_socket};
}

Manager::Manager(Options options, Parts parts)
    : options_(std::move(options)), state_(options_.state_dir), parts_(std::move(parts)), links_(parts_.rtnl.links()) {}

Manager::~Manager() = default;

// --- policy ---

// The file's ids, corrected by what the kernel's table still shows.
void Manager::recall() {
    ZoneTable from_file;
    if (auto file = state_.zones())
        from_file = std::move(*file);
    else if (file.error().error == ENOENT)
        SPDLOG_INFO("no zone ids remembered yet: {}", file.error().text);
    else
        SPDLOG_ERROR("zone ids: {}; going on with those of the kernel's table", file.error().text);

    const auto table = parts_.table.observe();
    if (!table) SPDLOG_ERROR("{}", table.error().text);
    const ZoneTable from_kernel = table && *table ? zones_of((*table)->ruleset) : ZoneTable{};
    if (!from_kernel.empty()) SPDLOG_INFO("the kernel's table knows {} zone ids", from_kernel.size());
    remembered_ = merge_tables(from_file, from_kernel);
}

Result<void> Manager::start() {
    recall();
    if (parts_.store_socket) {
        // Before the table is made with it: from then on the table lives as long as the socket.
        const int fd = parts_.table.socket();
        const std::string message = fmt::format("FDSTORE=1\nFDNAME={}", stored_socket_name);
        ctcached::check(sd_pid_notify_with_fds(0, 0, message.c_str(), &fd, 1), "sd_pid_notify_with_fds");
    }
    auto applied = reload();
    if (!applied && generation_ == 0) {
        const Failure cause = applied.error();
        if (cause.error != 0) return applied;
        SPDLOG_ERROR("the policy is invalid:\n{}", cause.text);
        applied = start_on_last_good();
        if (!applied) return std::unexpected(cause);
    }

    sources_of_events_.push_back(event_.add_signal(SIGTERM, [this] { event_.exit(0); }));
    sources_of_events_.push_back(event_.add_signal(SIGINT, [this] { event_.exit(0); }));
    sources_of_events_.push_back(event_.add_signal(SIGHUP, [this] {
        SPDLOG_INFO("SIGHUP: reloading");
        if (const auto done = reload(); !done)
            SPDLOG_ERROR("the policy was not applied; the old one goes on:\n{}", done.error().text);
    }));
    sources_of_events_.push_back(event_.add_io(parts_.table.monitor(), EPOLLIN, [this](auto) { table_changed(); }));
    sources_of_events_.push_back(event_.add_io(parts_.rtnl.fd(), EPOLLIN, [this](auto) { links_changed(); }));
    sources_of_events_.push_back(event_.add_io(parts_.cache.events(), EPOLLIN, [this](auto) { families_changed(); }));
    service_.emplace(event_, options_.bus,
                     Commands{.snapshot = [this]() -> const Snapshot& { return snapshot(); },
                              .reload = [this] { return reload(); },
                              .check = [this](std::string_view text) { return check(text); },
                              .flush = [this] { return flush({}); },
                              .flush_zone = [this](const std::string& zone) { return flush(zone); }});
    event_.enable_watchdog();
    tick();
    sd_notify(0, "READY=1");
    return {};
}

// The documents are broken, but the router was running on others before: those, until the broken ones are mended.
Result<void> Manager::start_on_last_good() {
    const auto documents = state_.policy();
    if (!documents) return std::unexpected(documents.error());
    Diagnostics diagnostics;
    Compiled compiled = compile(*documents, remembered_, diagnostics);
    if (diagnostics.has_errors()) return std::unexpected(Failure{0, "the last good policy is invalid too"});
    SPDLOG_WARN("going on with the policy that was applied last");
    return apply(std::move(compiled), *documents, diagnostics);
}

Result<void> Manager::refuse(const Diagnostics& diagnostics) {
    ++counters_.reloads_refused;
    std::vector<std::string> lines;
    lines.reserve(diagnostics.entries.size());
    for (const Diagnostic& entry : diagnostics.entries) lines.push_back(diagnostics.to_text(entry));
    const auto first = std::ranges::find(diagnostics.entries, Severity::error, &Diagnostic::severity);
    set_reason("policy", fmt::format("the policy is invalid and was not applied: {}", diagnostics.to_text(*first)));
    publish();
    return std::unexpected(Failure{0, fmt::format("{}", fmt::join(lines, "\n"))});
}

Result<void> Manager::reload() {
    const Reloading reloading(generation_ != 0);
    Diagnostics diagnostics;
    const LoadedConfig config = load_config(options_.config, diagnostics);
    watch(config.watch);
    sources_ = config.sources;
    Compiled compiled = compile(sources_, remembered_, diagnostics);
    if (diagnostics.has_errors()) return refuse(diagnostics);
    reasons_.erase("policy");
    if (sources_.empty()) SPDLOG_WARN("no policy document found: every flow stays in zone 0");
    return apply(std::move(compiled), sources_, diagnostics);
}

Result<void> Manager::apply(Compiled compiled, const std::vector<Source>& sources, const Diagnostics& diagnostics) {
    // First what may be refused; the module may know zones that the table does not have yet.
    const CachePlan cache_before = parts_.cache.plan();
    const auto cached = parts_.cache.apply(compiled.cache);
    if (!cached) {
        ++counters_.reloads_refused;
        set_reason("policy",
                   fmt::format("the policy was not applied: cache.mode is `required`, but {}", cached.error().text));
        publish();
        return std::unexpected(Failure{ENODEV, reasons_["policy"]});
    }
    for (const std::uint16_t id : compiled.ids.recycled) {
        const auto flushed = parts_.conntrack.flush_zone(id);
        if (flushed)
            SPDLOG_WARN("zone id {} has a new owner: {} old flows removed", id, *flushed);
        else
            SPDLOG_ERROR("zone id {} has a new owner, its old flows stay: {}", id, flushed.error().text);
    }
    const auto changes = parts_.table.apply(compiled.ruleset);
    if (!changes) {
        ++counters_.reloads_refused;
        set_reason("nftables", changes.error().text);
        if (const auto back = parts_.cache.apply(cache_before); back) take("cache", *back);
        publish();
        return std::unexpected(changes.error());
    }
    for (const std::string& line : *changes) SPDLOG_INFO("nftables: {}", line);
    reasons_.erase("nftables");
    take("cache", *cached);
    compiled_ = std::move(compiled);
    remembered_ = compiled_.ids.remember;
    ++generation_;
    ++counters_.reloads;
    applied_ = sources;
    remember();

    Diagnostics lints = diagnostics;
    lint_links(compiled_.policy, links_, lints);
    warnings_.clear();
    for (const Diagnostic& entry : lints.entries) {
        warnings_.push_back(lints.to_text(entry));
        SPDLOG_WARN("{}", warnings_.back());
    }
    take("conntrack", parts_.conntrack.apply(compiled_.policy.conntrack));
    SPDLOG_INFO("policy applied: {} zones, generation {}", compiled_.policy.zones.size(), generation_);
    schedule_tick();
    publish();
    return {};
}

void Manager::remember() {
    const auto zones = state_.save(remembered_);
    const auto policy = state_.save(applied_);
    state_saved_ = zones && policy;
    set_reason("state", !zones ? zones.error().text : !policy ? policy.error().text : "");
}

// --- what happens ---

void Manager::watch(const std::vector<std::filesystem::path>& paths) {
    if (paths == watched_) return;
    watches_.clear();
    watched_ = paths;
    try {
        for (const auto& path : paths)
            watches_.emplace_back(event_, path, [this] {
                if (debounce_)
                    Event::restart(debounce_, debounce_time);
                else
                    debounce_ = event_.add_timer(debounce_time, [this] { files_changed(); });
            });
    } catch (const std::system_error& error) {
        SPDLOG_WARN("changed files will not be noticed, reload by signal or D-Bus: {}", error.what());
    }
}

void Manager::files_changed() {
    Diagnostics unread;
    const LoadedConfig config = load_config(options_.config, unread);
    if (config.sources == sources_ && !unread.has_errors()) return;
    SPDLOG_INFO("a policy file changed: reloading");
    if (const auto done = reload(); !done)
        SPDLOG_ERROR("the policy was not applied; the old one goes on:\n{}", done.error().text);
}

void Manager::table_changed() {
    const auto changes = parts_.table.foreign_changes();
    if (!changes) throw_errno(changes.error().error, changes.error().text);
    if (changes->empty()) return;
    for (const std::string& line : *changes) SPDLOG_WARN("nftables: {}", line);
    const auto now = std::chrono::steady_clock::now();
    repair_delay_ = now - repair_time_ > 10s
                        ? 0ms
                        : std::min<std::chrono::milliseconds>(std::max(repair_delay_ * 2, 10ms), slowest_repair);
    repair_time_ = now;
    if (repair_delay_ == 0ms)
        repair();
    else if (repair_timer_)
        Event::restart(repair_timer_, repair_delay_);
    else
        repair_timer_ = event_.add_timer(repair_delay_, [this] { repair(); });
}

void Manager::repair() {
    const auto changes = parts_.table.apply(compiled_.ruleset);
    set_reason("nftables", changes ? "" : changes.error().text);
    if (changes && !changes->empty()) {
        ++counters_.table_repairs;
        for (const std::string& line : *changes) SPDLOG_WARN("nftables: repaired: {}", line);
    }
    publish();
}

void Manager::links_changed() {
    const auto changed = parts_.rtnl.refresh();
    if (!changed) throw_errno(EIO, changed.error().text); // libnl has no errno
    if (!*changed) return;
    const auto before = std::exchange(links_, parts_.rtnl.links());
    for (const Zone& zone : compiled_.policy.zones) {
        const ZoneLinks was = links_of(zone, before);
        const ZoneLinks is = links_of(zone, links_);
        if (was.present != is.present) SPDLOG_INFO("zone {}: links now: {}", zone.name, fmt::join(is.present, " "));
        for (const std::string& name : is.missing)
            if (std::ranges::find(was.missing, name) == was.missing.end())
                SPDLOG_WARN("zone {}: interface {} is gone", zone.name, name);
    }
    publish();
}

void Manager::families_changed() {
    const auto notes = parts_.cache.families_changed();
    if (!notes) throw_errno(notes.error().error, notes.error().text);
    take("cache", *notes);
    publish();
}

void Manager::look_for_rivals() {
    if (compiled_.cache.mode == CacheMode::off) return set_reason("rivals", "");
    const auto rivals = find_rivals(system_);
    set_reason("rivals", rivals ? *rivals : rivals.error().text);
}

void Manager::tick() {
    take("conntrack", parts_.conntrack.tick());
    take("cache", parts_.cache.tick());
    look_for_rivals();
    if (!state_saved_) remember();
    publish();
    schedule_tick();
}

void Manager::schedule_tick() {
    const auto interval = compiled_.policy.conntrack.pressure.interval;
    if (tick_timer_)
        Event::restart(tick_timer_, interval);
    else
        tick_timer_ = event_.add_timer(interval, [this] { tick(); });
}

int Manager::run() {
    const int code = event_.run();
    sd_notify(0, "STOPPING=1");
    if (const auto left = parts_.table.hand_over(compiled_.ruleset); !left) {
        SPDLOG_ERROR("the table could not be left behind: {}", left.error().text);
        return 1;
    }
    SPDLOG_INFO("stopped; the table stays (remove it with --clear)");
    return code;
}

// --- what is told ---

void Manager::take(const char* part, const Notes& notes) {
    for (const std::string& line : notes.information) SPDLOG_INFO("{}", line);
    set_reason(part, fmt::format("{}", fmt::join(notes.problems, "; ")));
}

// Logged when it comes and when it goes, not while it lasts.
void Manager::set_reason(const char* part, const std::string& reason) {
    const auto known = reasons_.find(part);
    if (reason.empty()) {
        if (known == reasons_.end()) return;
        reasons_.erase(known);
        SPDLOG_INFO("{}: well again", part);
    } else if (known == reasons_.end() || known->second != reason) {
        reasons_[part] = reason;
        SPDLOG_ERROR("{}: {}", part, reason);
    }
}

// For readers: with counters from the kernel, unless they are fresh.
const Snapshot& Manager::snapshot() {
    const auto now = std::chrono::steady_clock::now();
    if (snapshot_time_ && now - *snapshot_time_ <= snapshot_age) return snapshot_;
    if (const auto table = parts_.table.observe(); !table) set_reason("nftables", table.error().text);
    if (const auto cache = parts_.cache.look(); !cache) SPDLOG_WARN("{}", cache.error().text);
    renew_snapshot();
    snapshot_time_ = now;
    return snapshot_;
}

void Manager::renew_snapshot() {
    const auto conntrack = parts_.conntrack.state();
    if (!conntrack) set_reason("conntrack", conntrack.error().text);
    set_reason("bus", service_ ? service_->problem() : "");
    snapshot_ = make_snapshot({.compiled = compiled_,
                               .conntrack = conntrack.value_or(ConntrackState{}),
                               .zones = parts_.table.counters(),
                               .daemon = counters_,
                               .degraded = reasons_,
                               .links = links_,
                               .warnings = warnings_,
                               .generation = generation_,
                               .cache = parts_.cache.view()});
    snapshot_time_.reset();
}

// For listeners: no signal promises a counter, so none is read.
void Manager::publish() {
    renew_snapshot();
    if (service_) service_->publish(snapshot_);
    sd_notifyf(0, "STATUS=%zu zones, %llu of %llu flows (pressure %s)%s", snapshot_.zones.size(),
               static_cast<unsigned long long>(snapshot_.conntrack_count),
               static_cast<unsigned long long>(snapshot_.conntrack_max),
               std::string(to_string(snapshot_.pressure)).c_str(), snapshot_.degraded.empty() ? "" : ", degraded");
}

Diagnostics Manager::check(std::string_view text) {
    Diagnostics diagnostics;
    const Source source{"<string>", std::string(text)};
    const Compiled compiled = compile({&source, 1}, remembered_, diagnostics);
    lint_links(compiled.policy, links_, diagnostics);
    return diagnostics;
}

Result<void> Manager::flush(const std::string& zone) {
    bool found = zone.empty();
    if (zone.empty())
        if (const auto done = parts_.cache.flush({}); !done) return done;
    for (const ZoneIdentity& identity : compiled_.ids.zones) {
        if (!zone.empty() && identity.name != zone) continue;
        found = true;
        const auto flushed = parts_.conntrack.flush_zone(identity.id);
        if (!flushed) return std::unexpected(flushed.error());
        if (!zone.empty())
            if (const auto done = parts_.cache.flush(identity.id); !done) return done;
        SPDLOG_INFO("zone {}: {} flows removed", identity.name, *flushed);
    }
    if (!found) return failure(ENOENT, fmt::format("zone {}", zone));
    return {};
}

} // namespace ctcached
