// A request of generic netlink while it is made: libnl's message, of a fixed size, which becomes bytes.
#pragma once

#include "base/handle.hpp"

#include <netlink/attr.h>
#include <netlink/msg.h>

#include <concepts>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

namespace ctcached {

class GenlRequest {
public:
    // `flags` with NLM_F_ACK or NLM_F_DUMP; `room`: bytes that all attributes take. std::bad_alloc.
    GenlRequest(std::uint16_t family, std::uint8_t command, std::uint16_t flags, std::size_t room = 256);

    // std::length_error when there is no room left.
    void put(std::uint16_t type, std::string_view payload);
    template <std::integral T>
    void put(std::uint16_t type, T value) { // in host order
        put(type, std::string_view(reinterpret_cast<const char*>(&value), sizeof value));
    }
    // What `fill` puts becomes the members of a nest.
    template <std::invocable Fill>
    void nest(std::uint16_t type, Fill fill) {
        nlattr* start = begin(type);
        fill();
        end(start);
    }

    [[nodiscard]] std::string bytes() const;

private:
    [[nodiscard]] nlattr* begin(std::uint16_t type);
    void end(nlattr* start);

    Handle<nl_msg, nlmsg_free> message_;
};

} // namespace ctcached
