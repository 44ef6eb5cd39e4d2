// Fuzz target: any bytes as a policy document must end in a policy or in messages, never in a crash, an exception or a
// minute of work.
//
// An input is one document, or several with a line "%%" between them, because merging has its own errors. What comes
// out is held to the promises of the headers: places lie within the document, every message is one line, and a policy
// without errors survives the cross-checks that others rely on.
//
// fuzz-sources: policy/*.cpp
// fuzz-libraries: fmt yaml-cpp
#include "policy/parse.hpp"
#include "policy/validate.hpp"

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string_view>
#include <vector>

using namespace ctcached;

namespace {

void require(bool condition) {
    if (!condition) std::abort();
}

std::vector<Source> split(std::string_view text) {
    constexpr std::string_view separator = "\n%%\n";
    std::vector<Source> sources;
    while (true) {
        const std::size_t end = std::min(text.find(separator), text.size());
        sources.push_back({"document" + std::to_string(sources.size()), std::string(text.substr(0, end))});
        if (end == text.size() || sources.size() == 4) return sources;
        text.remove_prefix(end + separator.size());
    }
}

void check_places(const std::vector<Source>& sources, const Diagnostics& diagnostics) {
    for (const Diagnostic& entry : diagnostics.entries) {
        require(entry.place.file < sources.size());
        const std::string& text = sources[entry.place.file].text;
        const auto lines = static_cast<std::uint32_t>(std::count(text.begin(), text.end(), '\n')) + 1;
        require(entry.place.line <= lines + 1);
        require(!entry.text.empty() && entry.text.find('\n') == std::string::npos);
    }
}

void check_policy(const Policy& policy) {
    for (const Zone& zone : policy.zones) {
        require(!zone.name.empty() && zone.name.size() <= 63);
        require(!zone.match.empty());
        require(zone.id.value_or(1) != 0);
        for (const Match& match : zone.match) {
            require(match.ports.empty() || !match.protocols.empty());
            require(!match.mark || (match.mark->value & ~match.mark->mask) == 0);
            for (const auto* list : {&match.subnets, &match.source, &match.destination})
                for (const Subnet& subnet : *list) require(subnet.length <= (subnet.ipv6 ? 128 : 32));
            for (const InterfacePattern& pattern : match.interfaces)
                require(pattern.wildcard ? pattern.name.size() <= 14
                                         : !pattern.name.empty() && pattern.name.size() <= 15);
        }
    }
    Diagnostics directions;
    require(validate_directions(policy, directions));
}

} // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    const auto sources = split({reinterpret_cast<const char*>(data), size});
    Diagnostics diagnostics;
    const Policy policy = parse_policy(sources, diagnostics);
    check_places(sources, diagnostics);
    if (!diagnostics.has_errors()) check_policy(policy);
    return 0;
}
