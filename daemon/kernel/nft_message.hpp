// Netlink bytes, read with care.
//
// What arrives is a run of messages (16-byte header, nfgenmsg, attributes); an attribute is length, type and payload,
// padded to 4 bytes (RFC 3549, include/uapi/linux/netlink.h). Nothing here trusts a length: a run that does not parse
// to its end is malformed, a value of the wrong size is absent, a string ends at its payload's end at the latest.
// libnftnl's own parsers drop the attributes that they do not know, and we must see those: an expression with one more
// attribute is not the expression that we wrote.
#pragma once

#include <array>
#include <cstdint>
#include <initializer_list>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace ctcached {

// A run of attributes, by type; of several with one type, the last.
class Attributes {
public:
    Attributes() = default;
    explicit Attributes(std::span<const char> bytes);

    [[nodiscard]] bool malformed() const { return malformed_; }
    [[nodiscard]] bool has(std::uint16_t type) const { return payload(type).has_value(); }
    // Well-formed, and of no types but these.
    [[nodiscard]] bool only(std::initializer_list<std::uint16_t> types) const;

    [[nodiscard]] std::optional<std::string_view> payload(std::uint16_t type) const;
    [[nodiscard]] std::optional<std::string> text(std::uint16_t type) const;
    [[nodiscard]] std::optional<std::uint8_t> u8(std::uint16_t type) const;
    [[nodiscard]] std::optional<std::uint32_t> u32(std::uint16_t type) const; // network order on the wire
    [[nodiscard]] std::optional<std::uint64_t> u64(std::uint16_t type) const; // likewise
    [[nodiscard]] Attributes nested(std::uint16_t type) const;                // empty when absent
    // The members of a nested list, in order, whatever their types.
    [[nodiscard]] std::vector<Attributes> list(std::uint16_t type) const;

private:
    static constexpr std::size_t known_types = 32; // more than any nftables object has (NFTA_SET_MAX is 20 in 6.18)
    std::array<std::string_view, known_types> values_{};
    std::uint32_t present_ = 0; // a bit per type
    bool malformed_ = false;    // or of a type that is beyond the array
};

struct NftMessage {
    std::uint16_t type = 0; // NLMSG_* below 16, else subsystem << 8 | NFT_MSG_*
    std::uint16_t flags = 0;
    std::uint32_t sequence = 0;
    std::uint32_t port = 0;
    std::uint8_t family = 0;
    std::string_view body; // behind the netlink header
    Attributes attributes; // behind nfgenmsg; empty in a control message

    [[nodiscard]] bool is(int nft_type) const; // NFT_MSG_* of the nftables subsystem
};

// What NLMSG_ERROR and NLMSG_DONE say.
struct NftReply {
    int error = 0;    // errno, positive; 0: done well
    std::string text; // the kernel's own words (NETLINK_EXT_ACK), or empty
};

// Splits what was read; nullopt when it does not parse to its end. The views point into `bytes`, which is aligned to 4.
[[nodiscard]] std::optional<std::vector<NftMessage>> split_messages(std::span<const char> bytes);
// nullopt for any other message.
[[nodiscard]] std::optional<NftReply> decode_reply(const NftMessage& message);

} // namespace ctcached
