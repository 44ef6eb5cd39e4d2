// The values of the language: what each text means, and that hostile documents end in a message.
#include "policy/parse.hpp"
#include "policy/values.hpp"

#include <doctest/doctest.h>
#include <fmt/format.h>

using namespace ctcached;
using namespace std::chrono_literals;

namespace {

constexpr Range any{0, std::uint64_t{1} << 62U};

Policy parse(std::string_view text, Diagnostics& diagnostics) {
    const Source source{"p.yaml", std::string(text)};
    return parse_policy({&source, 1}, diagnostics);
}

// Every line that parsing gives, errors and warnings.
std::string messages(std::string_view text) {
    Diagnostics diagnostics;
    parse(text, diagnostics);
    std::string lines;
    for (const Diagnostic& entry : diagnostics.entries) lines += diagnostics.to_text(entry) + "\n";
    return lines;
}

Policy good(std::string_view text) {
    Diagnostics diagnostics;
    Policy policy = parse(text, diagnostics);
    for (const Diagnostic& entry : diagnostics.entries) INFO(diagnostics.to_text(entry));
    CHECK_FALSE(diagnostics.has_errors());
    return policy;
}

Subnet subnet(std::string_view text) { return parse_subnet(text, {}).value(); }

} // namespace

TEST_CASE("numbers are decimal or 0x, without leading zeros, within their range") {
    CHECK(parse_number("0", any) == 0U);
    CHECK(parse_number("0xfFfFfFfF", any) == 0xffffffffU);
    for (const std::string bad : {"", "-1", "+1", " 1", "1 ", "0x", "0xg", "010", "1_000", "1e3", "1.0",
                                  "18446744073709551615", "99999999999999999999"})
        CHECK_MESSAGE(!parse_number(bad, any), bad);
    CHECK(parse_number("65536", {0, 65535}).error() == "'65536' is out of range: 0 to 65535");
}

TEST_CASE("counts have decimal and binary units") {
    CHECK(parse_count("auto", any).value() == std::nullopt);
    CHECK(parse_count("256k", any).value() == 256'000U);
    CHECK(parse_count("256Ki", any).value() == 262'144U);
    CHECK(parse_count("2M", any).value() == 2'000'000U);
    CHECK(parse_count("2Mi", any).value() == 2'097'152U);
    CHECK_FALSE(parse_count("9223372036854775807Mi", {0, 1U << 30U}));
    for (const std::string bad : {"256K", "256 k", "k", "1.5M", "0x10k", "-1k", "Auto"})
        CHECK_MESSAGE(!parse_count(bad, any), bad);
}

TEST_CASE("shares are exact to a hundredth of a percent") {
    CHECK(parse_share("6.25%", any).value() == Share{625});
    CHECK(parse_share("6.2%", any).value() == Share{620});
    CHECK(parse_share("100%", any).value() == Share{10'000});
    CHECK(parse_share("0.01%", any).value() == Share{1});
    for (const std::string bad : {"6", "%", "6.255%", "6.%", ".5%", "06%", "6 %", "-1%", "6%%"})
        CHECK_MESSAGE(!parse_share(bad, any), bad);
    CHECK(parse_share("100.01%", {1, 10'000}).error() == "'100.01%' is out of range: 0.01% to 100%");
}

TEST_CASE("sizes in bytes need a unit") {
    CHECK(parse_bytes("512MiB", any).value() == 512U << 20U);
    CHECK(parse_bytes("512MB", any).value() == 512'000'000U);
    CHECK(parse_bytes("1024B", any).value() == 1024U);
    for (const std::string bad : {"512", "512M", "512mib", "512 MiB", "MiB", "1.5GiB"})
        CHECK_MESSAGE(!parse_bytes(bad, any), bad);
}

TEST_CASE("durations are whole seconds or units from large to small") {
    CHECK(parse_duration("7200", any).value() == 7200s);
    CHECK(parse_duration("2h 4m", any).value() == 7440s);
    CHECK(parse_duration("2h4m", any).value() == 7440s);
    CHECK(parse_duration("1d", any).value() == 86'400s);
    CHECK(parse_duration("90s", any).value() == 90s);
    for (const std::string bad : {"", "s", "4m 2h", "1h 1h", "100ms", "1 h", "2h ", " 2h", "2h  4m", "1w", "1h 30"})
        CHECK_MESSAGE(!parse_duration(bad, any), bad);
}

TEST_CASE("ports are one or an inclusive range") {
    CHECK(parse_ports("80", {0, 65535}).value() == PortRange{80, 80});
    CHECK(parse_ports("8000-8100", {0, 65535}).value() == PortRange{8000, 8100});
    for (const std::string bad : {"", "-", "80-", "-80", "80-79", "65536", "80 - 90", "80-90-100", "http"})
        CHECK_MESSAGE(!parse_ports(bad, {0, 65535}), bad);
}

TEST_CASE("protocols are names or numbers") {
    CHECK(parse_protocol("tcp", {0, 255}).value() == 6);
    CHECK(parse_protocol("icmpv6", {0, 255}).value() == 58);
    CHECK(parse_protocol("ipv6-icmp", {0, 255}).value() == 58);
    CHECK(parse_protocol("ipip", {0, 255}).value() == parse_protocol("ipencap", {0, 255}).value());
    CHECK(parse_protocol("255", {0, 255}).value() == 255);
    for (const std::string bad : {"", "TCP", "tpc", "256", "-1"}) CHECK_MESSAGE(!parse_protocol(bad, {0, 255}), bad);
    CHECK(protocol_name(6) == "tcp");
    CHECK(protocol_name(254) == "254");
}

TEST_CASE("addresses are strict, and host bits name the network that was meant") {
    CHECK(subnet("10.0.0.0/8") == Subnet{false, 8, 0x0a000000});
    CHECK(subnet("192.0.2.1") == Subnet{false, 32, 0xc0000201});
    CHECK(subnet("0.0.0.0/0") == Subnet{false, 0, 0});
    CHECK(subnet("::/0") == Subnet{true, 0, 0});
    CHECK(subnet("::1").address == 1);
    CHECK(subnet("2001:db8::/32").address == u128{0x20010db8} << 96U);
    CHECK(subnet("1:2:3:4:5:6:7:8").length == 128);
    CHECK(subnet("::ffff:192.0.2.1").address == (u128{0xffff} << 32U | 0xc0000201U));
    CHECK(subnet("fe80::1:2/128").address == (u128{0xfe80} << 112U | 0x10002U));
    for (const std::string bad : {"",
                                  "/",
                                  "10.0.0",
                                  "10.0.0.0.0",
                                  "256.0.0.0",
                                  "010.0.0.0",
                                  "10.0.0.0/33",
                                  "10.0.0.0/",
                                  "10.0.0.0/08",
                                  ":",
                                  ":::",
                                  "1::2::3",
                                  "1:2:3:4:5:6:7",
                                  "1:2:3:4:5:6:7:8:9",
                                  "1:2:3:4:5:6:7:8::",
                                  "12345::",
                                  "::g",
                                  "::/129",
                                  "1:",
                                  ":1",
                                  "1.2.3.4::",
                                  "::1.2.3",
                                  "1:2:3:4:5:6:7:1.2.3.4",
                                  "fe80::1%eth0"})
        CHECK_MESSAGE(!parse_subnet(bad, {}), bad);
    CHECK(parse_subnet("10.1.2.3/8", {}).error() ==
          "'10.1.2.3/8' has bits behind its prefix: the network is 10.0.0.0/8");
    CHECK(parse_subnet("2001:db8::1/32", {}).error() ==
          "'2001:db8::1/32' has bits behind its prefix: the network is 2001:db8::/32");
}

TEST_CASE("subnets are written as RFC 5952 says") {
    for (const std::string text : {"::/0", "::1/128", "2001:db8::/32", "1:0:0:2::/64", "1:2:3:4:5:6:7:8/128",
                                   "1:0:3:4:5:6:7:8/128", "0.0.0.0/0", "192.0.2.1/32", "1:2:3::/48", "::2:0:0:0/128"})
        CHECK(to_string(subnet(text)) == text);
    CHECK(to_string(subnet("1:0:0:0:2:0:0:0")) == "1::2:0:0:0/128");
}

TEST_CASE("interfaces are what the kernel allows, with a '*' at the end") {
    CHECK(parse_interface("eth0", {}).value() == InterfacePattern{"eth0", false});
    CHECK(parse_interface("vlan*", {}).value() == InterfacePattern{"vlan", true});
    CHECK(parse_interface("*", {}).value() == InterfacePattern{"", true});
    CHECK(parse_interface("abcdefghijklmno", {}).has_value());
    CHECK(parse_interface("abcdefghijklmn*", {}).has_value());
    for (const std::string bad :
         {"", "a/b", "a b", "a:b", "a*b", "**", ".", "..", "abcdefghijklmnop", "abcdefghijklmno*", "a\tb"})
        CHECK_MESSAGE(!parse_interface(bad, {}), bad);
}

TEST_CASE("marks lie within their mask") {
    CHECK(parse_mark("16", any).value() == MarkMatch{16, 0xffffffff});
    CHECK(parse_mark("0x10/0xf0", any).value() == MarkMatch{0x10, 0xf0});
    CHECK(parse_mark("0/1", any).value() == MarkMatch{0, 1});
    for (const std::string bad : {"", "/", "1/", "/1", "0x10/0x0f", "0/0", "1/2/3"})
        CHECK_MESSAGE(!parse_mark(bad, any), bad);
}

TEST_CASE("what YAML does not take for text") {
    for (const std::string other : {"", "~", "null", "true", "FALSE", "10", "0x1f", "0o17", "-3", "1.5", ".5", "1e3",
                                    "1.e-3", ".inf", "-.INF", ".nan"})
        CHECK_MESSAGE(is_not_text(other), other);
    for (const std::string text :
         {"web", "10a", "1.2.3", "e3", ".", "-", "yes", "off", "1e", "0o", "0x", "eth0", "1-2"})
        CHECK_MESSAGE(!is_not_text(text), text);
}

TEST_CASE("a whole policy") {
    const Policy policy = good(R"(
version: 1
conntrack:
  max: 256Ki
  memory: 512MiB
  buckets: auto
  accounting: false
  pressure: { warn: 70%, critical: 85.5%, clear: 60%, interval: 10s }
  timeouts: { tcp_established: 2h 4m, udp_stream: 180 }
cache: { mode: required, decisions: 1000, proof: 0x40 }
zones:
  - name: web
    id: 10
    match:
      - { protocol: tcp, ports: [80, 443, 8000-8100] }
      - { subnets: [10.20.0.0/16, "2001:db8::/32"] }
      - { interfaces: [lan0, "vlan*"], protocol: udp, mark: 0x10/0xf0 }
    cache: [route, descriptor]
    class: 0x7
  - name: rest
    match: [{ source: 192.0.2.1, destination: 198.51.100.0/24 }]
    direction: original
    cache: none
)");
    CHECK(policy.conntrack.max == 262'144U);
    CHECK(policy.conntrack.memory_bytes == 512U << 20U);
    CHECK_FALSE(policy.conntrack.buckets.has_value());
    CHECK_FALSE(policy.conntrack.accounting);
    CHECK(policy.conntrack.pressure.critical == Share{8550});
    CHECK(policy.conntrack.pressure.interval == 10s);
    REQUIRE(policy.conntrack.timeouts.size() == 2);
    CHECK(policy.conntrack.timeouts[0] == TimeoutSetting{{0, 9, 32}, "tcp_timeout_established", 7440s});
    CHECK(policy.conntrack.timeouts[1].sysctl == "udp_timeout_stream");
    CHECK(policy.cache.mode == CacheMode::required);
    CHECK(policy.cache.proof == 64);
    REQUIRE(policy.zones.size() == 2);
    const Zone& web = policy.zones[0];
    CHECK(web.name == "web");
    CHECK(web.place == Place{0, 12, 11});
    CHECK(web.id == 10);
    CHECK(web.id_place == Place{0, 13, 9});
    CHECK_FALSE(web.direction.has_value());
    CHECK(web.cache == CacheKinds{.route = true, .ipsec = false, .socket = false, .descriptor = true});
    CHECK(web.flow_class == 7);
    REQUIRE(web.match.size() == 3);
    CHECK(web.match[0].protocols == std::vector<std::uint8_t>{6});
    CHECK(web.match[0].ports == std::vector<PortRange>{{80, 80}, {443, 443}, {8000, 8100}});
    CHECK(web.match[1].subnets.size() == 2);
    CHECK(web.match[2].interfaces == std::vector<InterfacePattern>{{"lan0", false}, {"vlan", true}});
    CHECK(web.match[2].mark == MarkMatch{0x10, 0xf0});
    CHECK(policy.zones[1].cache == CacheKinds{});
    CHECK(policy.zones[1].direction == Direction::original);
    CHECK(policy.zones[1].match[0].source == std::vector<Subnet>{{false, 32, 0xc0000201}});
}

TEST_CASE("later documents replace settings key by key and append zones") {
    const std::vector<Source> sources = {
        {"a.yaml", "version: 1\n"
                   "conntrack: { memory: 512MiB, pressure: { warn: 70% }, timeouts: { udp: 40, icmp: 70 } }\n"
                   "zones: [{ name: a, match: [{ protocol: tcp }] }]\n"},
        {"empty.yaml", "# nothing\n"},
        {"b.yaml", "version: 1\n"
                   "conntrack: { memory: 10%, pressure: { critical: 80% }, timeouts: { udp: 60 } }\n"
                   "zones: [{ name: b, match: [{ protocol: udp }] }]\n"}};
    Diagnostics diagnostics;
    const Policy policy = parse_policy(sources, diagnostics);
    CHECK(diagnostics.empty());
    CHECK(policy.conntrack.memory == Share{1000});
    CHECK_FALSE(policy.conntrack.memory_bytes.has_value());
    CHECK(policy.conntrack.pressure.warn == Share{7000});
    CHECK(policy.conntrack.pressure.critical == Share{8000});
    REQUIRE(policy.conntrack.timeouts.size() == 2);
    CHECK(policy.conntrack.timeouts[0].value == 60s);
    CHECK(policy.conntrack.timeouts[0].place.file == 2);
    REQUIRE(policy.zones.size() == 2);
    CHECK(policy.zones[1].place.file == 2);
}

TEST_CASE("documents that are no text end in one message at their place") {
    CHECK(messages("") == "");
    CHECK(messages("\xef\xbb\xbf"
                   "version: 1\n") == "");
    CHECK(messages(std::string_view("version: 1\nzones: \0", 20)) ==
          "p.yaml:2:8: error: a control character (U+0000)\n");
    CHECK(messages("version: 1 # \x04\n") == "p.yaml:1:14: error: a control character (U+0004)\n");
    CHECK(messages("a\xff") == "p.yaml:1:2: error: not UTF-8 text\n");
    CHECK(messages("\xed\xa0\x80") == "p.yaml:1:1: error: not UTF-8 text\n");
    CHECK(messages("\xc0\x80") == "p.yaml:1:1: error: not UTF-8 text\n");
    CHECK(messages("\xe2\x82") == "p.yaml:1:1: error: not UTF-8 text\n");
    CHECK(messages("version: 1\rzones: []\n") == "p.yaml:1:11: error: a control character (U+000D)\n");
    CHECK(messages("version: 1\r\nzones: []\r\n") == "");
}

TEST_CASE("appetite and depth are limited") {
    CHECK(messages(std::string(max_document_bytes + 1, ' ')) == "p.yaml: error: larger than 16 MiB\n");
    CHECK(messages(std::string(2'000'000, '[')).find("no value ends within the next 512 KiB") != std::string::npos);
    CHECK(messages("version: 1\nzones: " + std::string(17, '[') + std::string(17, ']')).find("more than 16 levels") !=
          std::string::npos);
    std::string many = "version: 1\nzones:\n";
    while (many.size() < 4'100'000) many += "- a\n";
    CHECK(messages(many).ends_with("error: more than 1000000 values\n"));
}
