// The JSON schema that editors use speaks the parser's language.
//
// Rows first: the keys, types and ranges of the schema are those of schema(), in both directions. Then values: a small
// validator for the part of JSON schema draft-07 that the file uses runs over probes, and the parser over the same
// probes. What the schema refuses the parser must refuse, and the other way round, but for what a pattern cannot say
// (host bits, ranges of texts), which stands in a list of its own. Last, the shipped policies pass both.
#include "policy/parse.hpp"
#include "policy/values.hpp"

#include <doctest/doctest.h>
#include <fmt/format.h>
#include <nlohmann/json.hpp>
#include <yaml-cpp/yaml.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <regex>
#include <set>
#include <sstream>
#include <tuple>

using namespace ctcached;
using nlohmann::json;

namespace {

// Tests run in the source folder.
const std::filesystem::path policies = "policies";

std::string read(const std::filesystem::path& path) {
    std::ifstream stream(path);
    std::ostringstream text;
    text << stream.rdbuf();
    REQUIRE_MESSAGE(stream.good(), path.string());
    return text.str();
}

const json& schema_file() {
    static const json file = json::parse(read(policies / "ctcached.schema.json"));
    return file;
}

std::string ref_name(const json& node) {
    const std::string ref = node.value("$ref", "");
    return ref.substr(ref.rfind('/') + 1);
}

const json& definition(const std::string& name) { return schema_file().at("definitions").at(name); }

using Row = std::tuple<std::string, std::string, bool, double, double>;

// The range of a definition: its own, that of the number among its alternatives, or the annotation of a text.
std::pair<double, double> range_of(const json& node) {
    if (node.contains("minimum")) return {node.at("minimum"), node.at("maximum")};
    if (node.contains("x-minimum")) return {node.at("x-minimum"), node.at("x-maximum")};
    for (const json& alternative : node.value("anyOf", json::array()))
        if (const auto range = range_of(alternative); range != std::pair(0.0, 0.0)) return range;
    return {0, 0};
}

void collect(const std::string& prefix, const json& object, std::set<Row>& rows) {
    const json required = object.value("required", json::array());
    for (const auto& [key, node] : object.at("properties").items()) {
        const std::string type = ref_name(node);
        const json& target = definition(type);
        const auto [minimum, maximum] = range_of(target);
        const bool must = std::find(required.begin(), required.end(), key) != required.end();
        rows.emplace(prefix + key, type, must, minimum, maximum);
        CHECK_MESSAGE(!node.value("description", "").empty(), (prefix + key));
        if (target.contains("properties")) collect(prefix + key + ".", target, rows);
        if (target.contains("items") && !ref_name(target.at("items")).empty())
            collect(prefix + key + "[].", definition(ref_name(target.at("items"))), rows);
    }
}

bool has_type(const json& value, const std::string& type) {
    return (type == "object" && value.is_object()) || (type == "array" && value.is_array()) ||
           (type == "string" && value.is_string()) || (type == "boolean" && value.is_boolean()) ||
           (type == "integer" && value.is_number_integer());
}

bool accepts(const json& rule, const json& value);

bool accepts_members(const json& rule, const json& value) {
    for (const json& key : rule.value("required", json::array()))
        if (!value.contains(key.get<std::string>())) return false;
    const json dependencies = rule.value("dependencies", json::object());
    for (const auto& [key, others] : dependencies.items())
        for (const json& other : others)
            if (value.contains(key) && !value.contains(other.get<std::string>())) return false;
    const json properties = rule.value("properties", json::object());
    for (const auto& [key, member] : value.items())
        if (!properties.contains(key) || !accepts(properties.at(key), member)) return false;
    return value.size() >= rule.value("minProperties", std::size_t{0});
}

bool accepts(const json& rule, const json& value) {
    if (rule.contains("$ref") && !accepts(definition(ref_name(rule)), value)) return false;
    if (rule.contains("type") && !has_type(value, rule.at("type"))) return false;
    if (rule.contains("enum") &&
        std::find(rule.at("enum").begin(), rule.at("enum").end(), value) == rule.at("enum").end())
        return false;
    if (rule.contains("minimum") && value < rule.at("minimum")) return false;
    if (rule.contains("maximum") && value > rule.at("maximum")) return false;
    if (rule.contains("pattern") &&
        !std::regex_search(value.get<std::string>(), std::regex(rule.at("pattern").get<std::string>())))
        return false;
    if (rule.contains("anyOf") && std::none_of(rule.at("anyOf").begin(), rule.at("anyOf").end(),
                                               [&](const json& alternative) { return accepts(alternative, value); }))
        return false;
    if (value.is_array() && value.size() < rule.value("minItems", std::size_t{0})) return false;
    if (value.is_array() && rule.contains("items"))
        for (const json& item : value)
            if (!accepts(rule.at("items"), item)) return false;
    return !value.is_object() || !rule.contains("properties") || accepts_members(rule, value);
}

// As an editor reads YAML: the core schema.
json to_json(const YAML::Node& node) {
    if (node.IsSequence()) {
        json list = json::array();
        for (const auto& item : node) list.push_back(to_json(item));
        return list;
    }
    if (node.IsMap()) {
        json object = json::object();
        for (const auto& pair : node) object[pair.first.Scalar()] = to_json(pair.second);
        return object;
    }
    if (node.IsNull()) return nullptr;
    const std::string text = node.Scalar();
    if (node.Tag() == "!" || !is_not_text(text)) return text;
    if (text.size() == 4 && (text[0] == 't' || text[0] == 'T')) return true;
    if (text.size() == 5 && (text[0] == 'f' || text[0] == 'F')) return false;
    if (text.find_first_not_of("0123456789") == std::string::npos) return std::stoull(text);
    if (text.starts_with("0x")) return std::stoull(text, nullptr, 16);
    if (text.starts_with("-") && text.find_first_not_of("0123456789", 1) == std::string::npos) return std::stoll(text);
    return 0.5; // some other number
}

bool schema_accepts(const std::string& document) { return accepts(schema_file(), to_json(YAML::Load(document))); }

bool parser_accepts(const std::string& document) {
    const Source source{"p.yaml", document};
    Diagnostics diagnostics;
    (void)parse_policy({&source, 1}, diagnostics);
    return !diagnostics.has_errors();
}

// On one line: doctest prints no more.
std::string shown(std::string text) {
    std::replace(text.begin(), text.end(), '\n', '|');
    return text;
}

struct Probe {
    std::string frame; // a document with @ in place of the value
    std::vector<std::string> good;
    std::vector<std::string> bad;      // for both
    std::vector<std::string> too_deep; // the schema lets it pass, the parser does not
};

const std::vector<Probe>& probes() {
    const auto item = [](const std::string& key) {
        return "version: 1\nzones: [{ name: a, match: [{ " + key + " }] }]\n";
    };
    static const std::vector<Probe> list = {
        {"version: @", {"1", "0x1"}, {"2", "0", "\"1\"", "one", "1.0", "", "[1]"}, {}},
        {"version: 1\nconntrack: @", {"{}"}, {"", "[]", "a", "{a: 1}", "{max: 0}"}, {}},
        {"version: 1\nconntrack: { max: @ }",
         {"auto", "1024", "2147483647", "256Ki", "1M", "\"2048\"", "0x1000"},
         {"1023", "2147483648", "Auto", "256K", "1.5M", "-1", "true", "~", "[1024]", "1 M"},
         {"1k", "\"0x1\""}},
        {"version: 1\nconntrack: { buckets: @ }", {"auto", "1024", "268435456"}, {"1023", "268435457", "none"}, {"1k"}},
        {"version: 1\nconntrack: { memory: @ }",
         {"6.25%", "90%", "0.01%", "512MiB", "1GB", "2048kB"},
         {"6.25", "512", "512M", "-1%", "1.234%", "auto", "06%"},
         {"91%", "0%", "1B", "2000GiB"}},
        {"version: 1\nconntrack: { accounting: @ }",
         {"true", "false", "True", "FALSE"},
         {"yes", "on", "1", "\"true\"", "~", "tRUE"},
         {}},
        {"version: 1\nconntrack: { pressure: { warn: @ } }",
         {"70%", "75.5%"},
         {"70", "0.7", "warn", "[70%]"},
         {"0%", "101%"}},
        {"version: 1\nconntrack: { pressure: { interval: @ } }",
         {"1", "3600", "5s", "1m 30s", "1h", "\"10\""},
         {"0", "3601", "5 s", "100ms", "30s 1m", "-1s"},
         {"2h", "0s"}},
        {"version: 1\nconntrack: { timeouts: { tcp_syn_sent: @ } }",
         {"60", "2h 4m", "2h4m", "1d", "2147483"},
         {"0", "2147484", "1w", "1h 1h", "60sec", "~"},
         {"100d"}},
        {"version: 1\ncache: { mode: @ }", {"auto", "required", "off"}, {"on", "Auto", "1", "[auto]", "~"}, {}},
        {"version: 1\ncache: { decisions: @ }", {"1", "65535", "0xff"}, {"0", "65536", "\"1\"", "all", "1.5"}, {}},
        {"version: 1\ncache: { proof: @ }", {"0", "4294967295"}, {"-1", "4294967296", "\"0\""}, {}},
        {"version: 1\nzones: @",
         {"[]"},
         {"", "{}", "a", "[a]", "[{}]", "[{name: a}]", "[{match: [{protocol: tcp}]}]"},
         {}},
        {"version: 1\nzones: [{ name: @, match: [{ protocol: tcp }] }]",
         {"a", "web-1", "\"10\"", "a.b_c", "9lives"},
         {"10", "true", "-a", "a b", "~", "a/b", "\"\"", "1e3"},
         {}},
        {"version: 1\nzones: [{ name: a, id: @, match: [{ protocol: tcp }] }]",
         {"1", "65535"},
         {"0", "65536", "\"1\"", "auto"},
         {}},
        {"version: 1\nzones: [{ name: a, direction: @, match: [{ protocol: tcp }] }]",
         {"original", "both"},
         {"reply", "Both", "[both]", "~"},
         {}},
        {"version: 1\nzones: [{ name: a, cache: @, match: [{ protocol: tcp }] }]",
         {"all", "none", "[route]", "[route, ipsec, socket, descriptor]"},
         {"route", "[]", "[all]", "[routes]", "true", "{}"},
         {}},
        {"version: 1\nzones: [{ name: a, class: @, match: [{ protocol: tcp }] }]",
         {"0", "0xffffffff"},
         {"-1", "4294967296", "\"7\"", "high"},
         {}},
        {"version: 1\nzones: [{ name: a, match: @ }]",
         {"[{protocol: tcp}]", "[{mark: 1}, {mark: 2}]"},
         {"[]", "{}", "", "[{}]", "[tcp]", "[[{protocol: tcp}]]", "[{ports: 80}]", "[{port: 80}]"},
         {"[{protocol: icmp, ports: 80}]", "[{source: 10.0.0.0/8, destination: \"::/0\"}]"}},
        {item("protocol: @"),
         {"tcp", "ipv6-icmp", "47", "[tcp, udp, 132]", "0x2f", "\"6\""},
         {"TCP", "256", "-1", "[]", "[tcp, [udp]]", "{}", "~", "~~"},
         {"\"300\""}},
        {item("protocol: tcp, ports: @"),
         {"80", "8000-8100", "[80, 443, 8000-8100]", "\"80\"", "0", "65535"},
         {"65536", "http", "-1", "80-", "[]", "80 - 90", "8000:8100", "~"},
         {"90-80", "0-65536"}},
        {item("subnets: @"),
         {"10.0.0.0/8", "192.0.2.1", "\"2001:db8::/32\"", "[10.0.0.0/8, \"::1\"]"},
         {"[]", "lan", "10.0.0.0/8/8", "10", "~", "fe80::1%eth0"},
         {"10.1.0.0/8", "10.0.0", "256.0.0.1", "10.0.0.0/33"}},
        {item("interfaces: @"),
         {"eth0", "\"vlan*\"", "\"*\"", "[lan0, abcdefghijklmno]", "eth0.100"},
         {"abcdefghijklmnop", "a/b", "a b", "\"a*b\"", "\".\"", "\"..\"", "10", "[]", "\"\"", "\"a:b\""},
         {}},
        {item("mark: @"),
         {"16", "0x10", "0x10/0xf0", "4294967295", "\"1\""},
         {"-1", "4294967296", "0x10/", "[1]", "high", "~"},
         {"0x10/0x0f", "1/0"}},
    };
    return list;
}

} // namespace

TEST_CASE("the keys, types and ranges are the parser's") {
    std::set<Row> ours;
    for (const SchemaKey& key : schema()) ours.emplace(key.path, key.type, key.required, key.minimum, key.maximum);
    std::set<Row> theirs;
    collect("", schema_file(), theirs);
    const auto text = [](const Row& row) {
        return fmt::format("{} {} required={} {}..{}", std::get<0>(row), std::get<1>(row), std::get<2>(row),
                           std::get<3>(row), std::get<4>(row));
    };
    for (const Row& row : ours) CHECK_MESSAGE(theirs.contains(row), "not in the schema: ", text(row));
    for (const Row& row : theirs) CHECK_MESSAGE(ours.contains(row), "not in the parser: ", text(row));
    CHECK(ours.size() > 45);
}

TEST_CASE("every mapping of the schema is closed and every definition is used") {
    std::set<std::string> used{"zone", "match"};
    std::set<Row> rows;
    collect("", schema_file(), rows);
    for (const Row& row : rows) used.insert(std::get<1>(row));
    for (const auto& [name, node] : schema_file().at("definitions").items()) {
        CHECK_MESSAGE(used.contains(name), name);
        CHECK_MESSAGE(!node.value("description", "").empty(), name);
        if (node.value("type", "") == "object") CHECK_MESSAGE(node.value("additionalProperties", true) == false, name);
    }
}

TEST_CASE("protocol names are the parser's") {
    json names = json::array();
    for (const ProtocolName& name : protocol_names()) names.push_back(std::string(name.name));
    CHECK(definition("protocols").at("anyOf").at(0).at("anyOf").at(0).at("enum") == names);
}

TEST_CASE("schema and parser accept the same values") {
    for (const Probe& probe : probes()) {
        const auto document = [&](const std::string& value) {
            return std::regex_replace(probe.frame, std::regex("@"), value);
        };
        for (const std::string& value : probe.good) {
            CHECK_MESSAGE(schema_accepts(document(value)), "schema refuses ", shown(document(value)));
            CHECK_MESSAGE(parser_accepts(document(value)), "parser refuses ", shown(document(value)));
        }
        for (const std::string& value : probe.bad) {
            CHECK_MESSAGE(!schema_accepts(document(value)), "schema accepts ", shown(document(value)));
            CHECK_MESSAGE(!parser_accepts(document(value)), "parser accepts ", shown(document(value)));
        }
        for (const std::string& value : probe.too_deep) {
            CHECK_MESSAGE(schema_accepts(document(value)), "schema refuses ", shown(document(value)));
            CHECK_MESSAGE(!parser_accepts(document(value)), "parser accepts ", shown(document(value)));
        }
    }
}

TEST_CASE("the shipped policies are clean, and name the schema") {
    int count = 0;
    for (const auto& entry : std::filesystem::directory_iterator(policies)) {
        if (entry.path().extension() != ".yaml") continue;
        ++count;
        const std::string text = read(entry.path());
        CHECK_MESSAGE(text.starts_with("# yaml-language-server: $schema=ctcached.schema.json\n"),
                      entry.path().string());
        CHECK_MESSAGE(schema_accepts(text), entry.path().string());
        const Source source{entry.path().filename().string(), text};
        Diagnostics diagnostics;
        (void)parse_policy({&source, 1}, diagnostics);
        for (const Diagnostic& line : diagnostics.entries) FAIL_CHECK(diagnostics.to_text(line));
    }
    CHECK(count == 6);
}
