// The module's keeper: has it loaded and configured as the policy wants it, whoever unloads it meanwhile.
//
// Nothing is kept here that the module knows better: its generation is compared with the one that it gave us, and when
// they differ (another module, another administrator) it is configured again. Without the module everything else of the
// daemon works; `reason` says what is in the way.
#pragma once

#include "kernel/conntrack.hpp"
#include "kernel/ctcache_message.hpp"
#include "kernel/genl.hpp"
#include "kernel/system.hpp"
#include "plan/cache.hpp"

#include <map>
#include <optional>
#include <string>

namespace ctcached {

struct CacheView {
    std::string state = "unavailable"; // "active", "unavailable", "off"
    std::string reason;                // why it is not active
    CacheCounters totals;              // empty unless active
    std::map<std::uint16_t, CacheCounters> zones;
};

class Cache {
public:
    [[nodiscard]] static Result<Cache> open(System system);

    // Loads the module when the plan wants it, and configures it in one message. A failure leaves what was: the module
    // configured as before, the old plan. `automatic` and `off` fail never; what is wrong is a note.
    [[nodiscard]] Result<Notes> apply(const CachePlan& plan);
    // Looks whether the module still has our configuration and its carrier.
    [[nodiscard]] Notes tick();

    // Readable when families come or go.
    [[nodiscard]] int events() const { return genl_.events(); }
    [[nodiscard]] Result<Notes> families_changed();

    // Forgets what the flows of a zone have learned, or everything; nothing to do when the cache is not active.
    [[nodiscard]] Result<void> flush(std::optional<std::uint16_t> zone);
    // Off, if the module is there; the plan stays.
    [[nodiscard]] Result<void> clear();

    // State and reason only, without asking the module; look() asks for its counters.
    [[nodiscard]] const CacheView& view() const { return view_; }
    [[nodiscard]] Result<void> look();
    [[nodiscard]] const CachePlan& plan() const { return plan_; }

private:
    Cache(System system, Genl genl) : system_(std::move(system)), genl_(std::move(genl)) {}
    [[nodiscard]] Result<void> find(bool load);
    [[nodiscard]] Result<Carrier> configure(const CachePlan& plan);
    [[nodiscard]] Result<void> send(const CachePlan& plan, Carrier carrier);
    [[nodiscard]] Result<CacheStatus> status();
    [[nodiscard]] Notes configure_again(std::string_view why);
    [[nodiscard]] Notes notes() const;
    void lose(std::string reason);

    System system_;
    Genl genl_;
    CachePlan plan_;
    std::optional<std::uint16_t> family_; // while the module is there and speaks our version
    std::uint64_t generation_ = 0;        // that the module gave to our configuration
    std::string problem_;                 // what the module refused
    CacheView view_;
};

} // namespace ctcached
