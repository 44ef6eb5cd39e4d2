// org.ctcached1 on D-Bus: the objects, who may call what, and the reconnection.
#pragma once

#include "base/error.hpp"
#include "base/event.hpp"
#include "bus/snapshot.hpp"
#include "policy/diagnostics.hpp"

#include <functional>
#include <memory>
#include <string>
#include <string_view>

namespace ctcached {

// What a caller may ask for; the manager supplies it. Failures become D-Bus errors by their kind.
struct Commands {
    std::function<const Snapshot&()> snapshot; // fresh enough to be shown (counters at most a second old)
    std::function<Result<void>()> reload;      // error text: the diagnostics, one per line
    std::function<Diagnostics(std::string_view)> check;
    std::function<Result<void>()> flush; // the flows of all zones
    std::function<Result<void>(const std::string&)> flush_zone;
};

class Service {
public:
    // `address`: "system", "session", "none" or a D-Bus address. Connects when it can and again when the bus went away;
    // a bus that is not there is reported through log and never fatal.
    Service(Event& event, const std::string& address, Commands commands);
    Service(const Service&) = delete;
    Service& operator=(const Service&) = delete;
    ~Service();

    // The applied state is another one: emits PropertiesChanged for the properties that differ and promise it,
    // InterfacesAdded and InterfacesRemoved for zones that came and went.
    void publish(const Snapshot& snapshot);
    // False while there is no connection (for the degraded state); true with address "none".
    [[nodiscard]] bool connected() const;

private:
    struct State;
    std::unique_ptr<State> state_;
};

} // namespace ctcached
