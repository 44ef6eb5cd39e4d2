// Who gets which zone id.
//
// An id is a claim on live flows, so the order of claims is the order of how much breaks when one is ignored: what the
// policy says, what the kernel's entries already carry (the memory), then anything that is free. Free ids are handed
// out from below and only ids that no remembered zone holds; memory is given up last, and from its far end. Every pass
// is linear in the number of zones plus the 65,536 ids: there is one slot per id and one hash entry per name.
//
// An id is `recycled` when entries that carry it could be taken for something they are not: it now belongs to another
// name, its zone was given another id by the policy, or it is used in another direction than before. In the last two
// cases the flows are lost to their zone anyway, and left in the table they would still collide with the tuples of the
// same flows opened anew (the kernel then renumbers ports, nf_nat_core.c, or drops, nf_conntrack_confirm).

#include "plan/zones.hpp"

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include <algorithm>
#include <optional>
#include <stdexcept>
#include <unordered_map>
#include <unordered_set>

namespace ctcached {

namespace {

constexpr std::size_t id_count = 65'536;
constexpr std::size_t max_json_bytes = 16U << 20U;
constexpr std::size_t max_name_bytes = 63; // policy/model.hpp

// Hands out ids that nobody has; each id at most once.
class IdPool {
public:
    explicit IdPool(const ZoneTable& remembered) : remembered_(remembered), oldest_(remembered.size()) {
        for (const auto& identity : remembered) held_[identity.id] = true;
    }

    void take(std::uint16_t id) { taken_[id] = true; }
    [[nodiscard]] bool taken(std::uint16_t id) const { return taken_[id]; }
    void forget(std::uint16_t id) { held_[id] = false; }

    std::uint16_t take_free() {
        for (; smallest_ < id_count; ++smallest_)
            if (!taken_[smallest_] && !held_[smallest_]) return mark(smallest_);
        while (oldest_ > 0)
            if (const auto id = remembered_[--oldest_].id; !taken_[id]) return mark(id);
        throw std::logic_error("more zones than ids: the policy was not validated");
    }

private:
    std::uint16_t mark(std::size_t id) {
        taken_[id] = true;
        return static_cast<std::uint16_t>(id);
    }

    const ZoneTable& remembered_;
    std::vector<bool> taken_ = std::vector<bool>(id_count);
    std::vector<bool> held_ = std::vector<bool>(id_count);
    std::size_t smallest_ = 1;
    std::size_t oldest_;
};

bool valid_name(std::string_view name) {
    const auto alphanumeric = [](char c) {
        return (c >= '0' && c <= '9') || (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z');
    };
    return !name.empty() && name.size() <= max_name_bytes && alphanumeric(name.front()) &&
           std::ranges::all_of(name, [&](char c) { return alphanumeric(c) || c == '_' || c == '.' || c == '-'; });
}

// Keeps each name and each id once, the first one wins.
class UniqueTable {
public:
    bool add(const ZoneIdentity& identity) {
        if (names_.contains(identity.name) || ids_.contains(identity.id)) return false;
        names_.insert(identity.name);
        ids_.insert(identity.id);
        table_.push_back(identity);
        return true;
    }
    ZoneTable release() { return std::move(table_); }

private:
    ZoneTable table_;
    std::unordered_set<std::string> names_;
    std::unordered_set<std::uint16_t> ids_;
};

// Throws std::invalid_argument with the reason, or what nlohmann::json throws.
ZoneIdentity identity_from_json(const nlohmann::json& entry) {
    if (!entry.is_object() || entry.size() != 3)
        throw std::invalid_argument("a zone is not an object of name, id and direction");
    for (const auto* key : {"name", "direction"})
        if (!entry.at(key).is_string()) throw std::invalid_argument(fmt::format("a zone's {} is not a string", key));
    const auto& name = entry.at("name").get_ref<const std::string&>();
    if (!valid_name(name)) throw std::invalid_argument("a zone's name is not one that a policy can have");
    const auto& id = entry.at("id");
    if (!id.is_number_unsigned() || id.get<std::uint64_t>() == 0 || id.get<std::uint64_t>() >= id_count)
        throw std::invalid_argument(fmt::format("zone {}: the id is not a number from 1 to 65535", name));
    const auto& direction = entry.at("direction").get_ref<const std::string&>();
    for (const auto candidate : {Direction::original, Direction::both})
        if (direction == to_string(candidate)) return {name, id.get<std::uint16_t>(), candidate};
    throw std::invalid_argument(fmt::format("zone {}: the direction is neither original nor both", name));
}

ZoneTable parse_zone_table(std::string_view text) {
    // Brackets and commas bound the parser's memory; names cannot contain any.
    const auto structure = std::ranges::count_if(text, [](char c) { return c == '{' || c == '[' || c == ','; });
    if (text.size() > max_json_bytes || static_cast<std::size_t>(structure) > 4 * id_count)
        throw std::invalid_argument("larger than any state file");
    const auto document = nlohmann::json::parse(text);
    if (!document.is_object() || document.size() != 2)
        throw std::invalid_argument("not an object of version and zones");
    if (document.at("version") != 1) throw std::invalid_argument("the version is not 1");
    const auto& zones = document.at("zones");
    if (!zones.is_array()) throw std::invalid_argument("zones is not a list");
    UniqueTable table;
    for (const auto& entry : zones) {
        const auto identity = identity_from_json(entry);
        if (!table.add(identity))
            throw std::invalid_argument(
                fmt::format("zone {}: the name or the id {} is there twice", identity.name, identity.id));
    }
    // The parser lets the last of two equal keys win. No string that got here contains a colon, so colons count keys.
    if (static_cast<std::size_t>(std::ranges::count(text, ':')) != 2 + 3 * zones.size())
        throw std::invalid_argument("a key is there twice");
    return table.release();
}

} // namespace

ZoneAssignment assign_zones(const Policy& policy, const ZoneTable& remembered) {
    std::unordered_map<std::string_view, const ZoneIdentity*> memory;
    for (const auto& identity : remembered) memory.emplace(identity.name, &identity);
    const auto recall = [&](const Zone& zone) -> const ZoneIdentity* {
        const auto found = memory.find(zone.name);
        return found == memory.end() ? nullptr : found->second;
    };

    IdPool pool(remembered);
    std::vector<std::optional<std::uint16_t>> ids(policy.zones.size());
    for (std::size_t i = 0; i < ids.size(); ++i) {
        const auto& zone = policy.zones[i];
        if (!zone.id) continue;
        pool.take(*zone.id);
        ids[i] = zone.id;
        // What the zone had before is nobody's from now on.
        if (const auto* known = recall(zone)) pool.forget(known->id);
    }
    for (std::size_t i = 0; i < ids.size(); ++i) {
        const auto* known = recall(policy.zones[i]);
        if (ids[i] || !known || pool.taken(known->id)) continue;
        pool.take(known->id);
        ids[i] = known->id;
    }

    ZoneAssignment result;
    std::vector<const ZoneIdentity*> owners(id_count);
    std::unordered_map<std::string_view, std::uint16_t> present;
    result.zones.reserve(policy.zones.size());
    for (std::size_t i = 0; i < ids.size(); ++i) {
        const auto& zone = policy.zones[i];
        const auto* known = recall(zone);
        const auto id = ids[i] ? *ids[i] : pool.take_free();
        const auto direction = zone.direction.value_or(known ? known->direction : Direction::original);
        result.zones.push_back({zone.name, id, direction});
        owners[id] = &result.zones.back(); // reserved above: stays where it is
        present.emplace(zone.name, id);
    }

    result.remember = result.zones;
    for (const auto& identity : remembered) {
        const auto* owner = owners[identity.id];
        const bool is_present = present.contains(identity.name);
        if (owner ? owner->name != identity.name || owner->direction != identity.direction : is_present)
            result.recycled.push_back(identity.id);
        if (!owner && !is_present) result.remember.push_back(identity);
    }
    std::ranges::sort(result.recycled);
    return result;
}

ZoneTable merge_tables(const ZoneTable& file, const ZoneTable& kernel) {
    UniqueTable merged;
    for (const auto* table : {&kernel, &file})
        for (const auto& identity : *table)
            if (identity.id != 0 && valid_name(identity.name)) merged.add(identity);
    return merged.release();
}

std::string to_json(const ZoneTable& table) {
    // One zone a line: a file that a human compares with yesterday's.
    std::string lines;
    for (const auto& [name, id, direction] : table)
        lines += fmt::format("{}\n  {{\"name\": \"{}\", \"id\": {}, \"direction\": \"{}\"}}", lines.empty() ? "" : ",",
                             name, id, to_string(direction));
    return fmt::format("{{\"version\": 1, \"zones\": [{}{}]}}\n", lines, lines.empty() ? "" : "\n");
}

Result<ZoneTable> zone_table_from_json(std::string_view text) {
    try {
        return parse_zone_table(text);
    } catch (const nlohmann::json::exception& error) {
        return std::unexpected(Failure{EINVAL, fmt::format("zone ids: {}", error.what())});
    } catch (const std::invalid_argument& error) {
        return std::unexpected(Failure{EINVAL, fmt::format("zone ids: {}", error.what())});
    }
}

} // namespace ctcached
