// "Something changed at this path", for a file or folder that may not exist yet.
//
// inotify watches inodes, an administrator thinks in paths. So each existing folder on the way is watched for the name
// of the next component, and the last inode for itself: a folder or file that comes into being, an editor that renames
// a new file over the old one, one that writes in place (told when it closes the file, not for each write), a folder
// that is moved away, the target of a symbolic link that is written. Events say *that*, not *what*: the owner looks
// again. Several may come for one change, and one may come for none; the owner waits a moment and compares.
#pragma once

#include "base/event.hpp"

#include <filesystem>
#include <functional>
#include <memory>

namespace ctcached {

class PathWatch {
public:
    // `path` must be absolute. Of a folder, its direct entries are watched. Throws std::system_error when the kernel
    // has no watches left.
    PathWatch(Event& event, const std::filesystem::path& path, std::function<void()> changed);
    PathWatch(PathWatch&&) noexcept;
    PathWatch& operator=(PathWatch&&) noexcept;
    ~PathWatch();

private:
    struct State;
    std::unique_ptr<State> state_;
};

} // namespace ctcached
