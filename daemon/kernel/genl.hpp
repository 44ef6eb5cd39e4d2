// Generic netlink: families by name, and word of those that come and go with their modules.
//
// A family has a number only while its module is loaded, and another one each time. The controller, itself a family
// (include/uapi/linux/genetlink.h), tells the number, and its multicast group "notify" tells of every change in all
// network namespaces. Codecs are values; integers of generic netlink are in host order. Requests are made by libnl
// (genl_request.hpp), which does not ask itself: its errors are neither errno nor the kernel's words.
#pragma once

#include "base/error.hpp"
#include "base/handle.hpp"
#include "kernel/nft_message.hpp"

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace ctcached {

// Integers in host order; nullopt when absent or of another size.
[[nodiscard]] std::optional<std::uint8_t> host_u8(const Attributes& attributes, std::uint16_t type);
[[nodiscard]] std::optional<std::uint16_t> host_u16(const Attributes& attributes, std::uint16_t type);
[[nodiscard]] std::optional<std::uint32_t> host_u32(const Attributes& attributes, std::uint16_t type);
[[nodiscard]] std::optional<std::uint64_t> host_u64(const Attributes& attributes, std::uint16_t type);

struct GenlFamily {
    std::string name;
    std::uint16_t id = 0;
    std::uint32_t version = 0;
    std::optional<std::uint32_t> notify; // the multicast group of that name

    bool operator==(const GenlFamily&) const = default;
};

struct GenlEvent {
    bool appeared = false; // else it went
    GenlFamily family;

    bool operator==(const GenlEvent&) const = default;
};

// What the controller sends: answers and news alike. EBADMSG for malformed input.
[[nodiscard]] Result<std::vector<GenlEvent>> decode_families(std::span<const char> bytes);

class Genl {
public:
    [[nodiscard]] static Result<Genl> open();

    // ENOENT when there is none; the kernel itself tries to load the module that has an alias for it.
    [[nodiscard]] Result<GenlFamily> find(const std::string& name);
    // As ask_kernel().
    [[nodiscard]] Result<std::string> ask(std::string_view request, std::string_view what);

    // Readable when families came or went.
    [[nodiscard]] int events() const { return events_.get(); }
    // In their order. ENOBUFS: some were lost.
    [[nodiscard]] Result<std::vector<GenlEvent>> news();

private:
    Genl(Fd questions, Fd events) : questions_(std::move(questions)), events_(std::move(events)) {}

    Fd questions_;
    Fd events_;
};

} // namespace ctcached
