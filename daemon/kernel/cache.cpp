#include "kernel/cache.hpp"

#include "kernel/module.hpp"

#include <fmt/format.h>

#include <cerrno>
#include <utility>

namespace ctcached {

namespace {

constexpr int dump_attempts = 3;

std::string_view name_of(Carrier carrier) {
    switch (carrier) {
    case Carrier::none: break;
    case Carrier::act_ct: return "act_ct";
    case Carrier::labels: return "labels";
    }
    return "none";
}

Failure other_version(std::uint32_t version) {
    return {EPROTONOSUPPORT, fmt::format("the module nf_ctcache speaks version {} of its protocol, this daemon {}",
                                         version, ctcache_version)};
}

} // namespace

Result<Cache> Cache::open(System system) {
    auto genl = Genl::open();
    if (!genl) return std::unexpected(genl.error());
    return Cache(std::move(system), std::move(*genl));
}

// Asking for the family has the kernel load the module that has its alias, so nothing is asked when it must not be.
Result<void> Cache::find(bool load) {
    family_.reset();
    if (!load && !system_.module_loaded(ctcache_family)) return failure(ENOENT, system_.cache_unavailable());
    auto family = genl_.find(ctcache_family);
    if (!family && family.error().error == ENOENT && load) {
        const auto loaded = load_module(ctcache_family, system_.root());
        family = genl_.find(ctcache_family);
        if (!family) {
            auto reason = system_.cache_unavailable();
            if (reason.empty()) reason = "the module nf_ctcache is loaded but has no family: it is starting or ending";
            if (!loaded && loaded.error().error != ENOENT) reason += fmt::format(" ({})", loaded.error().text);
            return std::unexpected(Failure{ENOENT, reason});
        }
    }
    if (!family) return std::unexpected(family.error());
    if (family->version != ctcache_version) return std::unexpected(other_version(family->version));
    family_ = family->id;
    return {};
}

Result<void> Cache::send(const CachePlan& plan, Carrier carrier) {
    const auto what =
        fmt::format("nf_ctcache: configure {} zones with carrier {}", plan.zones.size(), name_of(carrier));
    const auto replies = genl_.ask(encode_config(*family_, plan, carrier), what);
    if (!replies) return std::unexpected(replies.error());
    const auto generation = decode_configured(*replies);
    if (!generation) return std::unexpected(generation.error());
    generation_ = *generation;
    return {};
}

Result<Carrier> Cache::configure(const CachePlan& plan) {
    Carrier carrier = choose_carrier(system_.module_loaded("act_ct"), system_.module_loaded("openvswitch"));
    auto sent = send(plan, carrier);
    // Built in, or loaded since we looked.
    if (!sent && carrier == Carrier::act_ct && (sent.error().error == EBUSY || sent.error().error == EOPNOTSUPP)) {
        carrier = Carrier::labels;
        sent = send(plan, carrier);
    }
    if (!sent) return std::unexpected(sent.error());
    return carrier;
}

Result<Notes> Cache::apply(const CachePlan& plan) {
    const bool wanted = plan.mode != CacheMode::off;
    const auto found = find(wanted);
    if (!wanted) {
        const auto off = family_ ? send(plan, Carrier::none) : Result<void>{};
        plan_ = plan;
        problem_ = off ? "" : off.error().text;
        view_ = {.state = "off", .reason = "cache.mode is off", .totals = {}, .zones = {}};
        return notes();
    }
    const auto carrier = found ? configure(plan) : std::unexpected(found.error());
    if (!carrier && plan.mode == CacheMode::required) return std::unexpected(carrier.error());
    plan_ = plan;
    if (!carrier) {
        lose(carrier.error().text);
        if (found) problem_ = carrier.error().text;
        return notes();
    }
    problem_.clear();
    view_ = {.state = "active", .reason = {}, .totals = {}, .zones = {}};
    auto done = notes();
    done.information.push_back(fmt::format("nf_ctcache: {} zones, carrier {}, generation {}", plan.zones.size(),
                                           name_of(*carrier), generation_));
    return done;
}

void Cache::lose(std::string reason) {
    view_ = {.state = "unavailable", .reason = std::move(reason), .totals = {}, .zones = {}};
    // Without the module there is nothing that it could refuse; only who requires it misses it.
    problem_ = plan_.mode == CacheMode::required ? fmt::format("cache.mode is `required`, but {}", view_.reason) : "";
}

Notes Cache::notes() const {
    Notes notes;
    if (!problem_.empty()) notes.problems.push_back(problem_);
    return notes;
}

Notes Cache::configure_again(std::string_view why) {
    const auto carrier = configure(plan_);
    if (!carrier) {
        lose(carrier.error().text);
        problem_ = carrier.error().text;
        return notes();
    }
    problem_.clear();
    view_.state = "active";
    view_.reason.clear();
    return {.information = {fmt::format("nf_ctcache: {}; configured again, carrier {}, generation {}", why,
                                        name_of(*carrier), generation_)},
            .problems = {}};
}

Result<CacheStatus> Cache::status() {
    const auto replies = genl_.ask(encode_stats_request(*family_), "nf_ctcache: counters");
    if (!replies) return std::unexpected(replies.error());
    return decode_status(*replies);
}

Notes Cache::tick() {
    if (!family_ || plan_.mode == CacheMode::off) return notes();
    const auto now = status();
    if (!now) {
        if (now.error().error == ENOENT) {
            family_.reset();
            lose("the module nf_ctcache was removed");
        } else {
            problem_ = now.error().text;
        }
        return notes();
    }
    if (now->state == ModuleState::lost)
        return configure_again("act_ct or openvswitch was loaded and took its carrier");
    if (now->generation != generation_)
        return configure_again(
            fmt::format("somebody else configured it (generation {}, ours was {})", now->generation, generation_));
    if (view_.state != "active") return configure_again("it had refused the configuration before");
    problem_.clear();
    return notes();
}

Result<Notes> Cache::families_changed() {
    const auto news = genl_.news();
    bool lost = false;
    if (!news && news.error().error != ENOBUFS) return std::unexpected(news.error());
    std::optional<GenlEvent> last;
    if (news) {
        for (const GenlEvent& event : *news)
            if (event.family.name == ctcache_family) last = event;
    } else {
        lost = true;
    }
    if (!lost && !last) return notes();
    const bool present = lost ? system_.module_loaded(ctcache_family) : last->appeared;
    if (plan_.mode == CacheMode::off) return notes();
    family_.reset();
    if (!present) {
        lose("the module nf_ctcache was removed");
        auto done = notes();
        done.information.push_back(view_.reason);
        return done;
    }
    if (const auto found = find(false); !found) {
        lose(found.error().text);
        return notes();
    }
    // Our own loading of it is news, too.
    if (const auto now = status(); now && now->generation == generation_ && view_.state == "active") return notes();
    return configure_again("the module was loaded");
}

Result<void> Cache::flush(std::optional<std::uint16_t> zone) {
    if (!family_ || view_.state != "active") return {};
    const auto done = genl_.ask(encode_flush(*family_, zone),
                                zone ? fmt::format("nf_ctcache: flush zone {}", *zone) : "nf_ctcache: flush");
    if (!done) return std::unexpected(done.error());
    return {};
}

Result<void> Cache::clear() {
    if (const auto found = find(false); !found)
        return found.error().error == ENOENT ? Result<void>{} : std::unexpected(found.error());
    return send({}, Carrier::none);
}

Result<void> Cache::look() {
    view_.totals.clear();
    view_.zones.clear();
    if (!family_ || view_.state != "active") return {};
    auto totals = status();
    if (!totals) return std::unexpected(totals.error());
    Result<std::map<std::uint16_t, CacheCounters>> zones = failure(EINTR, "nf_ctcache: counters of zones");
    for (int attempt = 0; attempt < dump_attempts && !zones && zones.error().error == EINTR; ++attempt) {
        const auto replies = genl_.ask(encode_zone_stats_request(*family_), "nf_ctcache: counters of zones");
        zones = replies ? decode_zone_stats(*replies) : std::unexpected(replies.error());
    }
    if (!zones) return std::unexpected(zones.error());
    view_.totals = std::move(totals->counters);
    view_.zones = std::move(*zones);
    return {};
}

} // namespace ctcached
