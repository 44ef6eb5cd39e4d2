// The texts of single values, strictly: one way to read each, everything else is refused with a reason.
//
// A parser gets the text of a scalar and the range of its type. It returns the value, or why not: a sentence that the
// caller shows at the scalar's place. An empty reason means that the text has not the form at all; the caller then says
// what is expected.
#pragma once

#include "policy/model.hpp"

#include <chrono>
#include <cstdint>
#include <expected>
#include <optional>
#include <span>
#include <string>
#include <string_view>

namespace ctcached {

struct Range {
    std::uint64_t minimum = 0;
    std::uint64_t maximum = 0;
};

template <typename T>
using Parsed = std::expected<T, std::string>;

// Text as it may be shown in a message: in quotes, cut where it is long.
[[nodiscard]] std::string quote(std::string_view text);

// Decimal without leading zeros, or hexadecimal with 0x.
[[nodiscard]] Parsed<std::uint64_t> parse_number(std::string_view text, Range range);
// A number, with one of k (1,000), M (1,000,000), Ki (1,024) and Mi (1,048,576) or without; "auto" is no value.
[[nodiscard]] Parsed<std::optional<std::uint64_t>> parse_count(std::string_view text, Range range);
// A percentage with at most two decimals: "6.25%". The range is in hundredths of a percent.
[[nodiscard]] Parsed<Share> parse_share(std::string_view text, Range range);
// Bytes with a unit: B, kB, MB, GB (powers of 1,000), KiB, MiB, GiB (powers of 1,024).
[[nodiscard]] Parsed<std::uint64_t> parse_bytes(std::string_view text, Range range);
// Seconds, or numbers with units from large to small: "1d", "2h 4m", "90s".
[[nodiscard]] Parsed<std::chrono::seconds> parse_duration(std::string_view text, Range range);
// "80" or "8000-8100".
[[nodiscard]] Parsed<PortRange> parse_ports(std::string_view text, Range range);
// A name of the table in values.cpp or a number.
[[nodiscard]] Parsed<std::uint8_t> parse_protocol(std::string_view text, Range range);
// An address or an address/length, without host bits.
[[nodiscard]] Parsed<Subnet> parse_subnet(std::string_view text, Range range);
// A name as the kernel allows it (dev_valid_name() in net/core/dev.c), '*' as its last character.
[[nodiscard]] Parsed<InterfacePattern> parse_interface(std::string_view text, Range range);
// "0x10", "0x10/0xf0".
[[nodiscard]] Parsed<MarkMatch> parse_mark(std::string_view text, Range range);
[[nodiscard]] Parsed<std::string> parse_zone_name(std::string_view text, Range range);

// Would YAML's core schema (1.2.2, section 10.3.2) take this unquoted text for something else than a string?
[[nodiscard]] bool is_not_text(std::string_view plain);

// "10.0.0.0/8"; IPv6 in the form of RFC 5952.
[[nodiscard]] std::string to_string(const Subnet& subnet);

[[nodiscard]] bool has_ports(std::uint8_t protocol);
// The usual name, or the number as text.
[[nodiscard]] std::string protocol_name(std::uint8_t protocol);

struct ProtocolName {
    std::string_view name;
    std::uint8_t number = 0;
};
// In order of name; the JSON schema lists the same ones.
[[nodiscard]] std::span<const ProtocolName> protocol_names();

} // namespace ctcached
