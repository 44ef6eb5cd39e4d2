#include "kernel/table.hpp"

#include <fmt/format.h>

#include <cerrno>

namespace ctcached {

namespace {

// Others commit at their own pace; after so many lost races something is wrong.
constexpr int max_attempts = 20;

std::string describe(const NftEvent& event) {
    if (event.process.empty() && event.pid == 0) return event.text;
    return fmt::format("{} by {} (pid {})", event.text, event.process.empty() ? "?" : event.process, event.pid);
}

} // namespace

Result<Table> Table::open(Fd stored, bool has_store) {
    // First the ear, then the hand: nothing that happens in between is missed.
    auto monitor = NftMonitor::open();
    if (!monitor) return std::unexpected(monitor.error());
    auto socket = NftSocket::open(std::move(stored));
    if (!socket) return std::unexpected(socket.error());
    Table table(std::move(*socket), std::move(*monitor));
    if (table.socket_.supports_persist())
        table.flags_ = {.owner = true, .persist = true};
    else if (has_store && table.socket_.supports_owner())
        table.flags_ = {.owner = true};
    return table;
}

Result<std::optional<ObservedTable>> Table::observe() {
    auto observation = socket_.observe();
    if (!observation) return std::unexpected(observation.error());
    if (observation->table) counters_.observe(observation->table->ruleset);
    return std::move(observation->table);
}

Result<std::vector<std::string>> Table::change_to(const std::optional<Ruleset>& desired, AddTable flags) {
    for (int attempt = 0;; ++attempt) {
        auto observation = socket_.observe();
        if (!observation) return std::unexpected(observation.error());
        const auto& now = observation->table;
        if (now && now->owner != 0 && now->owner != socket_.port())
            return failure(EBUSY, fmt::format("table inet {} belongs to netlink port {} (another {} is running?)",
                                              table_name, now->owner, table_name));
        std::vector<Change> changes;
        if (desired)
            changes = diff(*desired, flags, now);
        else if (now)
            changes.emplace_back(DeleteTable{});
        if (changes.empty()) return std::vector<std::string>{};

        if (now) counters_.observe(now->ruleset);
        const auto applied = socket_.apply(changes, observation->generation);
        if (applied) {
            if (now) counters_.retire(changes, now->ruleset);
            return ctcached::describe(changes);
        }
        if (!applied.error().raced || attempt == max_attempts) return std::unexpected(applied.error().failure);
    }
}

Result<std::vector<std::string>> Table::apply(const Ruleset& desired) { return change_to(desired, flags_); }

Result<std::vector<std::string>> Table::foreign_changes() {
    const auto batch = monitor_.read(socket_.port());
    if (!batch) return std::unexpected(batch.error());
    std::vector<std::string> lines;
    for (const NftEvent& event : batch->events) lines.push_back(describe(event));
    if (batch->lost) lines.emplace_back("notifications were lost");
    return lines;
}

Result<void> Table::hand_over(const Ruleset& desired) {
    if (!wants_store()) return {};
    if (const auto changed = change_to(desired, {}); !changed) return std::unexpected(changed.error());
    return {};
}

Result<void> Table::remove() {
    if (const auto changed = change_to({}, {}); !changed) return std::unexpected(changed.error());
    return {};
}

} // namespace ctcached
