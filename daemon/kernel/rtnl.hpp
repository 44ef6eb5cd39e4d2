// The links of the namespace, by libnl-3: which are there now, and a word when that changes.
#pragma once

#include "base/error.hpp"
#include "base/handle.hpp"

#include <functional>
#include <memory>
#include <string>
#include <vector>

namespace ctcached {

class Rtnl {
public:
    [[nodiscard]] static Result<Rtnl> open();
    Rtnl(Rtnl&&) noexcept;
    Rtnl& operator=(Rtnl&&) noexcept;
    ~Rtnl();

    [[nodiscard]] int fd() const; // readable when links changed
    // Takes in what is readable; true when the set of names changed. Recovers from lost events by a new dump.
    [[nodiscard]] Result<bool> refresh();
    [[nodiscard]] std::vector<std::string> links() const; // names, sorted

private:
    struct State;
    explicit Rtnl(std::unique_ptr<State> state);
    std::unique_ptr<State> state_;
};

} // namespace ctcached
