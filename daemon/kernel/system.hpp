// procfs, sysfs and the state directory, below a root that tests choose.
#pragma once

#include "base/error.hpp"
#include "plan/sizing.hpp"

#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>

namespace ctcached {

class System {
public:
    explicit System(std::filesystem::path root = "/") : root_(std::move(root)) {}

    // net.netfilter.nf_conntrack_<name>
    [[nodiscard]] Result<std::uint64_t> conntrack_sysctl(std::string_view name) const;
    // EACCES in a namespace other than the first, for max and buckets.
    [[nodiscard]] Result<void> set_conntrack_sysctl(std::string_view name, std::uint64_t value) const;

    // MemTotal of /proc/meminfo; nf_conn's size from /sys/kernel/slab or /proc/slabinfo (the default when neither
    // says); max, buckets, and whether this namespace may write them. `count` is left 0: ctnetlink tells.
    [[nodiscard]] Result<SizingFacts> sizing_facts() const;

    // By /sys/module: a module, or a built-in one that has parameters.
    [[nodiscard]] bool module_loaded(std::string_view name) const;
    [[nodiscard]] const std::filesystem::path& root() const { return root_; }

    // Why the module cannot be used, as a sentence; empty when nf_ctcache is loaded.
    [[nodiscard]] std::string cache_unavailable() const;

private:
    std::filesystem::path root_;
};

} // namespace ctcached
