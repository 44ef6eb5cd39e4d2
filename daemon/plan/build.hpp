// From layers to the nftables table.
//
//     set zones            the zones by id, with their names; counts the flows that each one opened
//     map <layer>          one per layer: key -> zone, each element with a counter
//     chain prerouting     raw: ICMP errors to their chain, then one rule per layer, incoming interface
//     chain output         raw: the same layers, outgoing interface
//     chain quoted4/6      the same layers, asked for the packet that an ICMP error quotes
//     chain opened         nat, postrouting and input: only the first packet of a flow comes here
//
// A rule sets the zone and accepts, which ends this table's chain and nothing else; no match leaves zone 0.
//
// An ICMP error is looked up by the packet that it quotes. One that a reply met quotes that reply, turned round it is
// the packet that opened the flow, so its zone is what the layers say of: quoted protocol, quoted *source* port,
// addresses swapped. One that speaks of an original packet belongs to zone 0; where the layers name some `original`
// zone by accident, the kernel's second lookup goes to zone 0 all the same (nf_conntrack_find_get). Errors that this
// machine sends itself carry the flow of the packet that caused them (icmp_glue_bits, icmpv6_getfrag: nf_ct_attach), so
// the output hook needs no such rules.
//
// The nat chains exist because equal tuples of two `original` zones can be told apart in zone 0 only when NAT gives the
// second one another reply tuple. Their one rule counts flows, which costs a packet nothing: the first packet alone
// meets a nat chain. It lies before srcnat (100), where a verdict for the flow ends the hook.
#pragma once

#include "plan/layers.hpp"
#include "plan/ruleset.hpp"

#include <optional>
#include <span>
#include <string>

namespace ctcached {

[[nodiscard]] Ruleset build_ruleset(std::span<const Layer> layers, std::span<const ZoneIdentity> zones);

// "name direction", the comment of a zone's element in the set `zones`, and back; nothing for any other element.
[[nodiscard]] std::string zone_comment(const ZoneIdentity& zone);
[[nodiscard]] std::optional<ZoneIdentity> zone_of(const Element& element);
// The zones that a table observed in the kernel has.
[[nodiscard]] ZoneTable zones_of(const Ruleset& ruleset);

} // namespace ctcached
