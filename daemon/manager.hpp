// The daemon: owns the loop and the parts, and moves values between them.
//
// Everything that changes the kernel goes one way: documents -> compile() -> apply(). A first start, a reload by
// signal, D-Bus or a changed file, and the start on the last good policy differ only in the documents; a repair is
// apply()'s transaction with the policy that is there already. A policy that is refused changes nothing.
#pragma once

#include "base/event.hpp"
#include "base/path_watch.hpp"
#include "bus/service.hpp"
#include "kernel/cache.hpp"
#include "kernel/config.hpp"
#include "kernel/conntrack.hpp"
#include "kernel/rtnl.hpp"
#include "kernel/state.hpp"
#include "kernel/system.hpp"
#include "kernel/table.hpp"
#include "plan/compile.hpp"
#include "report.hpp"

#include <chrono>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

namespace ctcached {

struct Options {
    std::vector<ConfigPath> config;
    std::filesystem::path state_dir;
    std::filesystem::path runtime_dir;
    std::string bus; // "system", "session", "none" or an address
};

// The parts that need the kernel; opened before there is a manager, since any of them may be refused.
struct Parts {
    Fd lock;
    Table table;
    Conntrack conntrack;
    Cache cache;
    Rtnl rtnl;
    bool store_socket = false; // the table's socket is new to the service manager's FD store
};
[[nodiscard]] Result<Parts> open_parts(const Options& options);

class Manager {
public:
    Manager(Options options, Parts parts);
    Manager(const Manager&) = delete;
    Manager& operator=(const Manager&) = delete;
    ~Manager();

    // Applies the first policy; fails when there is neither a valid one nor a last good one.
    [[nodiscard]] Result<void> start();
    // Until SIGTERM or SIGINT; the table stays.
    int run();

private:
    // --- policy ---
    [[nodiscard]] Result<void> reload();
    [[nodiscard]] Result<void> refuse(const Diagnostics& diagnostics);
    [[nodiscard]] Result<void> apply(Compiled compiled, const std::vector<Source>& sources,
                                     const Diagnostics& diagnostics);
    [[nodiscard]] Result<void> start_on_last_good();
    void remember();
    void recall();

    // --- what happens ---
    void watch(const std::vector<std::filesystem::path>& paths);
    void files_changed();
    void table_changed();
    void repair();
    void links_changed();
    void families_changed();
    void look_for_rivals();
    void tick();
    void schedule_tick();

    // --- what is told ---
    void take(const char* part, const Notes& notes);
    void set_reason(const char* part, const std::string& reason);
    const Snapshot& snapshot();
    void renew_snapshot();
    void publish();
    [[nodiscard]] Diagnostics check(std::string_view text);
    [[nodiscard]] Result<void> flush(const std::string& zone);

    Options options_;
    Event event_;
    System system_;
    State state_;
    Parts parts_;

    ZoneTable remembered_;
    Compiled compiled_;
    std::vector<Source> sources_; // of the last load, applied or refused
    std::vector<Source> applied_; // of the policy that is in force
    std::vector<std::string> warnings_;
    std::vector<std::string> links_;
    std::uint64_t generation_ = 0;
    bool state_saved_ = true;
    DaemonCounters counters_;
    Reasons reasons_;
    Snapshot snapshot_;
    std::optional<std::chrono::steady_clock::time_point> snapshot_time_; // when its counters were read
    std::chrono::steady_clock::time_point repair_time_;
    std::chrono::milliseconds repair_delay_{0};

    std::vector<std::filesystem::path> watched_;
    std::vector<PathWatch> watches_;
    std::vector<EventSource> sources_of_events_;
    EventSource debounce_;
    EventSource repair_timer_;
    EventSource tick_timer_;
    std::optional<Service> service_; // last: its callbacks use everything above
};

} // namespace ctcached
