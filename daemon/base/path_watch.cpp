// One inotify source per folder on the way, one for the inode at its end.
//
// They are set from the root downwards, each before the next component is looked at, so a component that appears
// between the two is told by the folder above it. Whatever happens to a component on the way, all are set anew.
#include "base/path_watch.hpp"

#include <cerrno>
#include <vector>

namespace ctcached {

namespace {

constexpr std::uint32_t entry_events = IN_CREATE | IN_MOVED_TO | IN_MOVED_FROM | IN_DELETE;
constexpr std::uint32_t own_events = IN_DELETE_SELF | IN_MOVE_SELF;
constexpr std::uint32_t content_events = IN_CLOSE_WRITE | IN_ATTRIB;

bool is_lost(const inotify_event& event) {
    return (event.mask & (IN_DELETE_SELF | IN_MOVE_SELF | IN_IGNORED | IN_UNMOUNT | IN_Q_OVERFLOW)) != 0;
}

} // namespace

struct PathWatch::State {
    Event& event;
    std::filesystem::path path;
    std::function<void()> changed;
    std::vector<EventSource> sources;

    void arm();
    bool watch(const std::filesystem::path& inode, std::uint32_t mask,
               std::function<void(const inotify_event&)> callback);
    void tell() {
        auto call = changed; // a copy: the owner may drop the watch meanwhile
        call();
    }
    void rearm() {
        arm();
        tell();
    }
};

// False when the inode is not there or may not be seen: the folder above tells when that changes.
bool PathWatch::State::watch(const std::filesystem::path& inode, std::uint32_t mask,
                             std::function<void(const inotify_event&)> callback) {
    auto source = event.add_inotify(inode, mask, std::move(callback));
    if (source) {
        sources.push_back(std::move(*source));
        return true;
    }
    const int error = source.error().error;
    if (error == ENOENT || error == ENOTDIR || error == EACCES || error == ELOOP) return false;
    throw_errno(error, source.error().text);
}

void PathWatch::State::arm() {
    sources.clear();
    std::filesystem::path folder;
    for (auto component = path.begin(); component != path.end(); ++component) {
        if (!folder.empty()) {
            // The name is copied: re-arming replaces the function that holds it only after the call.
            auto on_entry = [this, name = component->string()](const inotify_event& event) {
                if (is_lost(event) || (event.len != 0 && name == event.name)) rearm();
            };
            if (!watch(folder, entry_events | own_events | IN_ATTRIB | IN_ONLYDIR, std::move(on_entry))) return;
        }
        folder /= *component;
    }
    watch(path, entry_events | own_events | content_events, [this](const inotify_event& event) {
        if (is_lost(event)) {
            rearm();
        } else {
            tell();
        }
    });
}

PathWatch::PathWatch(Event& event, const std::filesystem::path& path, std::function<void()> changed)
    : state_(new State{event, path.lexically_normal(), std::move(changed), {}}) {
    if (!state_->path.has_filename()) state_->path = state_->path.parent_path(); // "/etc/ctcached/"
    state_->arm();
}

PathWatch::PathWatch(PathWatch&&) noexcept = default;
PathWatch& PathWatch::operator=(PathWatch&&) noexcept = default;
PathWatch::~PathWatch() = default;

} // namespace ctcached
