// D-Bus messages: their ownership, and values going into them.
//
// A property is a Value; its D-Bus signature follows from its type, so the two cannot disagree. Strings are made valid
// UTF-8 on the way: a bus drops a client that sends anything else, and interface names, file names and what YAML held
// are bytes.
#pragma once

#include "base/handle.hpp"
#include "bus/snapshot.hpp"

#include <systemd/sd-bus.h>

#include <string>
#include <string_view>
#include <variant>

namespace ctcached {

using Message = Handle<sd_bus_message, sd_bus_message_unref>;
using Slot = Handle<sd_bus_slot, sd_bus_slot_unref>;

using Value = std::variant<std::string, std::uint16_t, std::uint32_t, std::uint64_t, std::vector<std::string>,
                           Statistics, std::map<std::string, SizingValue>>;

[[nodiscard]] const char* signature(const Value& value);

// Fatal only without memory.
void append(sd_bus_message* message, const Value& value);

// `text` with each byte that is not part of well-formed UTF-8 (RFC 3629, section 4), and each NUL, as U+FFFD.
[[nodiscard]] std::string to_utf8(std::string_view text);

// A connection that went away while the answer was made is not an error: the caller is gone with it.
void send(sd_bus_message* message);
void reply(sd_bus_message* call);
void reply_error(sd_bus_message* call, const char* name, std::string_view text);

// The names that callers can rely on.
namespace bus_error {
inline constexpr const char* invalid_policy = "org.ctcached1.Error.InvalidPolicy"; // the text: one diagnostic per line
inline constexpr const char* refused = "org.ctcached1.Error.Refused";              // by the kernel
inline constexpr const char* no_such_zone = "org.ctcached1.Error.NoSuchZone";
inline constexpr const char* access_denied = "org.freedesktop.DBus.Error.AccessDenied";
inline constexpr const char* interaction = "org.freedesktop.DBus.Error.InteractiveAuthorizationRequired";
inline constexpr const char* limits = "org.freedesktop.DBus.Error.LimitsExceeded";
} // namespace bus_error

} // namespace ctcached
