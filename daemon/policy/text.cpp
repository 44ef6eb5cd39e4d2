// Each key of a match as "key: values", in the order of the language; what is not there is not said.
#include "policy/text.hpp"

#include "policy/values.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <vector>

namespace ctcached {

std::string to_text(const Match& match) {
    std::vector<std::string> keys;
    const auto add = [&](const char* key, const auto& values, auto write) {
        std::vector<std::string> texts;
        texts.reserve(values.size());
        for (const auto& value : values) texts.push_back(write(value));
        if (!texts.empty()) keys.push_back(fmt::format("{}: {}", key, fmt::join(texts, " ")));
    };
    const auto subnet = [](const Subnet& value) { return to_string(value); };
    add("protocol", match.protocols, protocol_name);
    add("ports", match.ports, [](const PortRange& range) {
        return range.first == range.last ? fmt::format("{}", range.first)
                                         : fmt::format("{}-{}", range.first, range.last);
    });
    add("subnets", match.subnets, subnet);
    add("source", match.source, subnet);
    add("destination", match.destination, subnet);
    add("interfaces", match.interfaces,
        [](const InterfacePattern& pattern) { return fmt::format("{}{}", pattern.name, pattern.wildcard ? "*" : ""); });
    if (match.mark) keys.push_back(fmt::format("mark: {:#x}/{:#x}", match.mark->value, match.mark->mask));
    return fmt::format("{}", fmt::join(keys, ", "));
}

} // namespace ctcached
