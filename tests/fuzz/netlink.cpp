// Any bytes into every decoder of netlink messages: an answer or an error, never a crash, never a read out of bounds.
//
// The seeds are what kernels said (tests/data/nft). A fuzzer rarely invents a chain before a rule of it, so the bytes
// are also decoded into a table that has the sample's chains and sets already.
//
// fuzz-sources: base/error.cpp kernel/ctnetlink.cpp kernel/nft_decode.cpp kernel/nft_encode.cpp kernel/nft_event.cpp
// fuzz-sources: kernel/nft_message.cpp kernel/nft_typeof.cpp kernel/netlink.cpp
// fuzz-libraries: fmt mnl nftnl
#include "kernel/ctnetlink.hpp"
#include "kernel/nft_codec.hpp"
#include "kernel/nft_event.hpp"

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

using namespace ctcached;

namespace {

std::optional<ObservedTable> prepared() {
    ObservedTable table;
    for (const char* name : {"icmp4", "nat", "output", "prerouting", "c"})
        table.ruleset.chains.push_back({name, std::nullopt, {}});
    for (const char* name : {"if0", "ip4_24", "ip4_saddr", "ip6_iif", "markm", "proto_dport", "zones", "any"})
        table.ruleset.sets.emplace_back().name = name;
    return table;
}

} // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    const std::string copy(reinterpret_cast<const char*>(data), size); // netlink buffers are aligned, the fuzzer's not
    const std::span<const char> bytes(copy);
    for (auto table : {std::optional<ObservedTable>(), prepared()}) {
        if (decode_into(table, bytes) && table) (void)sort(*table);
    }
    (void)decode_generation(bytes);
    if (auto messages = split_messages(bytes))
        for (const auto& message : *messages) (void)decode_reply(message);
    NftEventLog log;
    (void)log.take(bytes, 1);
    (void)log.finished(true);
    (void)decode_totals(bytes);
    (void)decode_cpu_stats(bytes);
    return 0;
}
