// One appender per alternative of Value; containers are opened and closed around their items.
#include "bus/message.hpp"

#include "base/error.hpp"

#include <spdlog/spdlog.h>

#include <array>
#include <cstring>

namespace ctcached {

namespace {

// An administrator reads the first lines; a reply of megabytes helps nobody.
constexpr std::size_t max_error_text = 64U << 10U;

// The D-Bus types of Value's alternatives, in their order.
constexpr std::array<const char*, std::variant_size_v<Value>> signatures{"s", "q", "u", "t", "as", "a{st}", "a{sv}"};

void basic(sd_bus_message* message, char type, const void* value) {
    check(sd_bus_message_append_basic(message, type, value), "D-Bus message: append");
}

void item(sd_bus_message* message, const std::string& text) { basic(message, 's', to_utf8(text).c_str()); }
void item(sd_bus_message* message, std::uint16_t number) { basic(message, 'q', &number); }
void item(sd_bus_message* message, std::uint32_t number) { basic(message, 'u', &number); }
void item(sd_bus_message* message, std::uint64_t number) { basic(message, 't', &number); }
void item(sd_bus_message* message, bool truth) {
    const int value = truth ? 1 : 0; // sd_bus_message_append_basic(3): 'b' is an int
    basic(message, 'b', &value);
}

template <typename Fill>
void container(sd_bus_message* message, char type, const char* contents, Fill&& fill) {
    check(sd_bus_message_open_container(message, type, contents), "D-Bus message: open container");
    std::forward<Fill>(fill)();
    check(sd_bus_message_close_container(message), "D-Bus message: close container");
}

void item(sd_bus_message* message, const std::vector<std::string>& texts) {
    container(message, 'a', "s", [&] {
        for (const auto& text : texts) item(message, text);
    });
}

void item(sd_bus_message* message, const SizingValue& value) {
    constexpr std::array<const char*, std::variant_size_v<SizingValue>> contents{"t", "s", "b"};
    container(message, 'v', contents.at(value.index()),
              [&] { std::visit([&](const auto& inner) { item(message, inner); }, value); });
}

template <typename Content>
void item(sd_bus_message* message, const std::map<std::string, Content>& entries) {
    const std::string entry = std::is_same_v<Content, SizingValue> ? "sv" : "st";
    container(message, 'a', ("{" + entry + "}").c_str(), [&] {
        for (const auto& each : entries) {
            container(message, 'e', entry.c_str(), [&] {
                item(message, each.first);
                item(message, each.second);
            });
        }
    });
}

// Length of the well-formed sequence at the start of `text`; 0: there is none.
std::size_t sequence_length(std::string_view text) {
    struct Form {
        unsigned char first_low, first_high; // range of the first byte
        unsigned char low, high;             // range of the second one; the others are 80-BF
        std::size_t length;
    };
    // RFC 3629, section 4; 00 is left out, as D-Bus strings end there.
    constexpr Form forms[] = {
        {0x01, 0x7f, 0x00, 0x00, 1}, {0xc2, 0xdf, 0x80, 0xbf, 2}, {0xe0, 0xe0, 0xa0, 0xbf, 3},
        {0xe1, 0xec, 0x80, 0xbf, 3}, {0xed, 0xed, 0x80, 0x9f, 3}, {0xee, 0xef, 0x80, 0xbf, 3},
        {0xf0, 0xf0, 0x90, 0xbf, 4}, {0xf1, 0xf3, 0x80, 0xbf, 4}, {0xf4, 0xf4, 0x80, 0x8f, 4},
    };
    const auto byte = [&](std::size_t at) { return static_cast<unsigned char>(text[at]); };
    for (const auto& form : forms) {
        if (byte(0) < form.first_low || byte(0) > form.first_high) continue;
        if (text.size() < form.length) return 0;
        if (form.length > 1 && (byte(1) < form.low || byte(1) > form.high)) return 0;
        for (std::size_t at = 2; at < form.length; ++at)
            if (byte(at) < 0x80 || byte(at) > 0xbf) return 0;
        return form.length;
    }
    return 0;
}

} // namespace

const char* signature(const Value& value) { return signatures.at(value.index()); }

void append(sd_bus_message* message, const Value& value) {
    std::visit([&](const auto& inner) { item(message, inner); }, value);
}

std::string to_utf8(std::string_view text) {
    std::string result;
    result.reserve(text.size());
    while (!text.empty()) {
        const std::size_t length = sequence_length(text);
        if (length == 0)
            result += "\uFFFD";
        else
            result += text.substr(0, length);
        text.remove_prefix(length == 0 ? 1 : length);
    }
    return result;
}

void send(sd_bus_message* message) {
    const int error = sd_bus_message_send(message);
    if (error < 0) spdlog::debug("D-Bus: message not sent: {}", std::strerror(-error));
}

void reply(sd_bus_message* call) {
    sd_bus_message* answer = nullptr;
    check(sd_bus_message_new_method_return(call, &answer), "D-Bus message: new reply");
    const Message owned(answer);
    send(answer);
}

void reply_error(sd_bus_message* call, const char* name, std::string_view text) {
    std::string shown = to_utf8(text.substr(0, max_error_text));
    if (text.size() > max_error_text) {
        shown.resize(std::min(shown.size(), shown.rfind('\n')));
        shown += "\n(and more)";
    }
    const sd_bus_error error{name, shown.c_str(), 0};
    const int result = sd_bus_reply_method_error(call, &error);
    if (result < 0) spdlog::debug("D-Bus: error not sent: {}", std::strerror(-result));
}

} // namespace ctcached
