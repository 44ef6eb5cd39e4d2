// org.ctcached1 on D-Bus: the objects /org/ctcached1 and /org/ctcached1/zone/<name>, and their methods.
//
// What is shown is a Snapshot: a property read asks for one (Commands::snapshot), a signal is the difference of two
// (publish). Nothing here knows how anything is found out, and nothing waits for the bus: connection.hpp keeps the name
// on it, authority.hpp asks who may call. The objects are described in systemd/org.ctcached1.*.xml.
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
    // Error 0: the policy is invalid, the text has its diagnostics, one per line. Else: what the kernel refused.
    std::function<Result<void>()> reload;
    std::function<Diagnostics(std::string_view)> check;
    std::function<Result<void>()> flush;                        // the flows of all zones
    std::function<Result<void>(const std::string&)> flush_zone; // ENOENT: no such zone
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
    // Why nobody can reach us over D-Bus now: no bus, or another owner of the name. Empty when they can, before the
    // first attempt has been answered, and with the address "none".
    [[nodiscard]] const std::string& problem() const;

    struct State;

private:
    std::unique_ptr<State> state_;
};

} // namespace ctcached
