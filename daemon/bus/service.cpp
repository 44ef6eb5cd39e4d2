// sd-bus's view of the tables in objects.cpp, and the methods.
//
// Every callback gets the one State; a zone's object is found anew by its path each time, so no pointer into a snapshot
// outlives a callback. While publish() runs, properties are read from the published snapshot: a signal carries the
// values that it was made for, and reading them cannot lead to another publish().
#include "bus/service.hpp"

#include "bus/authority.hpp"
#include "bus/connection.hpp"
#include "bus/objects.hpp"
#include "policy/parse.hpp"

#include <fmt/format.h>
#include <spdlog/spdlog.h>
#include <systemd/sd-bus-vtable.h>

#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <unordered_map>

namespace ctcached {

namespace {

// Parsing costs time that a policy of an ordinary size does not need: larger texts are for root to check.
constexpr std::size_t max_check_bytes = 1U << 20U;
constexpr std::size_t max_check_rows = 10'000;

const char* to_string(Severity severity) { return severity == Severity::error ? "error" : "warning"; }

Message new_reply(sd_bus_message* call) {
    sd_bus_message* answer = nullptr;
    check(sd_bus_message_new_method_return(call, &answer), "D-Bus: reply");
    return Message(answer);
}

} // namespace

struct Service::State {
    Event& event;
    Commands commands;
    Snapshot published;
    std::unordered_map<std::string, std::size_t> positions; // of the published zones, by name
    const Snapshot* publishing = nullptr;
    Authority authority;
    std::vector<Slot> slots;
    std::vector<sd_bus_vtable> manager_vtable; // sd-bus keeps pointers to them
    std::vector<sd_bus_vtable> zone_vtable;
    Connection connection; // the last: its destructor detaches

    State(Event& loop, const std::string& address, Commands supplied);

    [[nodiscard]] const Snapshot& shown() const { return publishing ? *publishing : commands.snapshot(); }
    [[nodiscard]] const ZoneSnapshot* zone_at(const char* path) const;

    void attach(sd_bus* bus);
    void emit(const Snapshot& next);
    void emit_zones(sd_bus* bus, const Snapshot& next);

    void reload(sd_bus_message* call);
    void flush(sd_bus_message* call);
    void describe(sd_bus_message* call);
    void check_policy(sd_bus_message* call);
    void flush_zone(sd_bus_message* call);
};

namespace {

using State = Service::State;

// sd-bus -> State, under the guard. A method is answered later, or has been: 1.
template <void (State::*method)(sd_bus_message*)>
int method_callback(sd_bus_message* call, void* userdata, sd_bus_error*) {
    auto* state = static_cast<State*>(userdata);
    return state->event.guard(-EIO, [&] {
        (state->*method)(call);
        return 1;
    });
}

int manager_property(sd_bus*, const char*, const char*, const char* name, sd_bus_message* reply, void* userdata,
                     sd_bus_error*) {
    auto* state = static_cast<State*>(userdata);
    return state->event.guard(-EIO, [&] {
        append(reply, find_property(manager_properties(), name)->read(state->shown()));
        return 0;
    });
}

int zone_property(sd_bus*, const char* path, const char*, const char* name, sd_bus_message* reply, void* userdata,
                  sd_bus_error*) {
    auto* state = static_cast<State*>(userdata);
    return state->event.guard(-EIO, [&] {
        const auto* zone = state->zone_at(path);
        if (!zone) return -ENOENT; // it went while its properties were being read
        append(reply, find_property(zone_properties(), name)->read(*zone));
        return 0;
    });
}

int find_zone(sd_bus*, const char* path, const char*, void* userdata, void** found, sd_bus_error*) {
    auto* state = static_cast<State*>(userdata);
    return state->event.guard(-EIO, [&] {
        *found = state;
        return state->zone_at(path) ? 1 : 0;
    });
}

// sd-bus frees the array and its strings, so they come from malloc.
int list_zones(sd_bus*, const char*, void* userdata, char*** nodes, sd_bus_error*) {
    auto* state = static_cast<State*>(userdata);
    return state->event.guard(-EIO, [&] {
        const auto& zones = state->shown().zones;
        std::vector<Handle<char, std::free>> paths;
        paths.reserve(zones.size());
        for (const auto& zone : zones) {
            char* path = nullptr;
            if (sd_bus_path_encode(zone_prefix, zone.name.c_str(), &path) < 0) throw std::bad_alloc();
            paths.emplace_back(path);
        }
        auto** list = static_cast<char**>(std::calloc(paths.size() + 1, sizeof(char*)));
        if (!list) throw std::bad_alloc();
        for (std::size_t i = 0; i < paths.size(); ++i) list[i] = paths[i].release();
        *nodes = list;
        return 0;
    });
}

constexpr std::uint64_t property_flags(Emits emits) {
    switch (emits) {
    case Emits::constant: return SD_BUS_VTABLE_PROPERTY_CONST;
    case Emits::change: return SD_BUS_VTABLE_PROPERTY_EMITS_CHANGE;
    case Emits::nothing: break;
    }
    return 0;
}

// `methods` is a vtable without its end; "unprivileged" because Authority decides and not sd-bus.
template <typename Subject>
std::vector<sd_bus_vtable> make_vtable(std::vector<sd_bus_vtable> methods, std::span<const Property<Subject>> rows,
                                       sd_bus_property_get_t get) {
    for (const auto& row : rows)
        methods.push_back(SD_BUS_PROPERTY(row.name, signature(row.read({})), get, 0, property_flags(row.emits)));
    methods.push_back(SD_BUS_VTABLE_END);
    return methods;
}

std::vector<sd_bus_vtable> make_manager_vtable() {
    return make_vtable({SD_BUS_VTABLE_START(0),
                        SD_BUS_METHOD("Reload", "", "", method_callback<&State::reload>, SD_BUS_VTABLE_UNPRIVILEGED),
                        SD_BUS_METHOD("Flush", "", "", method_callback<&State::flush>, SD_BUS_VTABLE_UNPRIVILEGED),
                        SD_BUS_METHOD_WITH_NAMES("Check", "s", SD_BUS_PARAM(yaml), "a(suus)", SD_BUS_PARAM(diagnostics),
                                                 method_callback<&State::check_policy>, SD_BUS_VTABLE_UNPRIVILEGED),
                        SD_BUS_METHOD_WITH_NAMES("Describe", "", "", "s", SD_BUS_PARAM(json),
                                                 method_callback<&State::describe>, SD_BUS_VTABLE_UNPRIVILEGED)},
                       manager_properties(), manager_property);
}

std::vector<sd_bus_vtable> make_zone_vtable() {
    return make_vtable({SD_BUS_VTABLE_START(0), SD_BUS_METHOD("Flush", "", "", method_callback<&State::flush_zone>,
                                                              SD_BUS_VTABLE_UNPRIVILEGED)},
                       zone_properties(), zone_property);
}

void log_unsent(int result, std::string_view what) {
    if (result < 0) spdlog::warn("D-Bus: {} not sent: {}", what, std::strerror(-result));
}

void answer(sd_bus_message* call, const Result<void>& result, const char* error_name) {
    if (result) return reply(call);
    reply_error(call, error_name, result.error().text);
}

} // namespace

Service::State::State(Event& loop, const std::string& address, Commands supplied)
    : event(loop), commands(std::move(supplied)), authority(loop), manager_vtable(make_manager_vtable()),
      zone_vtable(make_zone_vtable()), connection(loop, address, bus_name,
                                                  {.attach = [this](sd_bus* bus) { attach(bus); },
                                                   .detach =
                                                       [this] {
                                                           authority.clear();
                                                           slots.clear();
                                                       }}) {}

const ZoneSnapshot* Service::State::zone_at(const char* path) const {
    const auto name = zone_name(path);
    if (name.empty()) return nullptr;
    const auto& zones = shown().zones;
    // What is shown has the published zones, as a rule.
    const auto position = positions.find(name);
    if (position != positions.end() && position->second < zones.size() && zones[position->second].name == name)
        return &zones[position->second];
    for (const auto& zone : zones)
        if (zone.name == name) return &zone;
    return nullptr;
}

void Service::State::attach(sd_bus* bus) {
    const auto keep = [&](int error, sd_bus_slot* slot) {
        check(error, "D-Bus: register objects");
        slots.emplace_back(slot);
    };
    sd_bus_slot* slot = nullptr;
    int error = sd_bus_add_object_vtable(bus, &slot, manager_path, manager_interface, manager_vtable.data(), this);
    keep(error, slot);
    error = sd_bus_add_fallback_vtable(bus, &slot, zone_prefix, zone_interface, zone_vtable.data(), find_zone, this);
    keep(error, slot);
    error = sd_bus_add_node_enumerator(bus, &slot, zone_prefix, list_zones, this);
    keep(error, slot);
    error = sd_bus_add_object_manager(bus, &slot, manager_path);
    keep(error, slot);
}

// Changes

void Service::State::emit_zones(sd_bus* bus, const Snapshot& next) {
    std::unordered_map<std::string, std::size_t> next_positions;
    for (const auto& zone : next.zones) next_positions.emplace(zone.name, next_positions.size());

    for (const auto& zone : published.zones) {
        if (next_positions.contains(zone.name)) continue;
        // What sd-bus announces in InterfacesAdded; its own removal would ask for the object, which is gone.
        const char* interfaces[] = {"org.freedesktop.DBus.Peer", "org.freedesktop.DBus.Introspectable",
                                    "org.freedesktop.DBus.Properties", zone_interface, nullptr};
        log_unsent(
            sd_bus_emit_interfaces_removed_strv(bus, zone_path(zone.name).c_str(), const_cast<char**>(interfaces)),
            "InterfacesRemoved");
    }
    const auto old_positions = std::exchange(positions, std::move(next_positions));
    for (const auto& zone : next.zones) {
        const auto path = zone_path(zone.name);
        const auto old = old_positions.find(zone.name);
        if (old == old_positions.end()) {
            log_unsent(sd_bus_emit_object_added(bus, path.c_str()), "InterfacesAdded");
            continue;
        }
        auto names = changed_properties(zone_properties(), published.zones[old->second], zone);
        if (names.empty()) continue;
        names.push_back(nullptr);
        log_unsent(
            sd_bus_emit_properties_changed_strv(bus, path.c_str(), zone_interface, const_cast<char**>(names.data())),
            "PropertiesChanged");
    }
}

void Service::State::emit(const Snapshot& next) {
    auto* bus = connection.ready();
    if (!bus) { // whoever connects later reads everything
        positions.clear();
        for (const auto& zone : next.zones) positions.emplace(zone.name, positions.size());
        return;
    }
    emit_zones(bus, next);
    auto names = changed_properties(manager_properties(), published, next);
    if (names.empty()) return;
    names.push_back(nullptr);
    log_unsent(
        sd_bus_emit_properties_changed_strv(bus, manager_path, manager_interface, const_cast<char**>(names.data())),
        "PropertiesChanged");
}

// Methods

void Service::State::reload(sd_bus_message* call) {
    authority.ask(call, Action::configure, 0, [this](sd_bus_message* asked, Authority::Caller) {
        const auto result = commands.reload();
        answer(asked, result, !result && result.error().error == 0 ? bus_error::invalid_policy : bus_error::refused);
    });
}

void Service::State::flush(sd_bus_message* call) {
    authority.ask(call, Action::configure, 0, [this](sd_bus_message* asked, Authority::Caller) {
        answer(asked, commands.flush(), bus_error::refused);
    });
}

void Service::State::flush_zone(sd_bus_message* call) {
    auto name = zone_name(sd_bus_message_get_path(call));
    authority.ask(call, Action::configure, 0, [this, name = std::move(name)](sd_bus_message* asked, Authority::Caller) {
        const auto result = commands.flush_zone(name);
        answer(asked, result, !result && result.error().error == ENOENT ? bus_error::no_such_zone : bus_error::refused);
    });
}

void Service::State::describe(sd_bus_message* call) {
    authority.ask(call, Action::read, 0, [this](sd_bus_message* asked, Authority::Caller) {
        const auto message = new_reply(asked);
        append(message.get(), to_json(shown()));
        send(message.get());
    });
}

void Service::State::check_policy(sd_bus_message* call) {
    const char* text = nullptr; // the message's; Authority keeps it
    const int error = sd_bus_message_read(call, "s", &text);
    if (error < 0) return reply_error(call, SD_BUS_ERROR_INVALID_ARGS, fmt::format("yaml: {}", std::strerror(-error)));
    const std::string_view yaml = text;
    if (yaml.size() > max_document_bytes)
        return reply_error(call, bus_error::limits,
                           fmt::format("yaml: {} bytes, the limit is {}", yaml.size(), max_document_bytes));
    authority.ask(call, Action::read, yaml.size(), [this, yaml](sd_bus_message* asked, Authority::Caller caller) {
        if (!caller.privileged && yaml.size() > max_check_bytes)
            return reply_error(asked, bus_error::limits,
                               fmt::format("yaml: {} bytes, the limit for callers other than root is {}", yaml.size(),
                                           max_check_bytes));
        const auto diagnostics = commands.check(yaml);
        const auto message = new_reply(asked);
        auto* reply = message.get();
        check(sd_bus_message_open_container(reply, 'a', "(suus)"), "D-Bus: reply");
        std::size_t rows = 0;
        for (const auto& entry : diagnostics.entries) {
            const bool last = ++rows == max_check_rows;
            const auto shown_text =
                last ? fmt::format("and {} more", diagnostics.entries.size() - rows + 1) : to_utf8(entry.text);
            check(sd_bus_message_append(reply, "(suus)", to_string(entry.severity), entry.place.line,
                                        entry.place.column, shown_text.c_str()),
                  "D-Bus: reply");
            if (last) break;
        }
        check(sd_bus_message_close_container(reply), "D-Bus: reply");
        send(reply);
    });
}

// Service

Service::Service(Event& event, const std::string& address, Commands commands)
    : state_(std::make_unique<State>(event, address, std::move(commands))) {}

Service::~Service() = default;

void Service::publish(const Snapshot& snapshot) {
    state_->publishing = &snapshot;
    state_->emit(snapshot);
    state_->publishing = nullptr;
    state_->published = snapshot;
}

const std::string& Service::problem() const { return state_->connection.problem(); }

} // namespace ctcached
