// The golden cases: a folder of documents in, the expected text out.
//
//     run FOLDER        compares, prints what differs, exit code 1 when anything does
//     UPDATE=1 run ...  writes what came out as what is expected; look at the difference before you commit it
//
// A case is a folder with policy.yaml and, in order of their names behind it, any further *.yaml. Each kind of
// expectation is one row of the table below: the file's name and the function that makes its text from the documents. A
// case is checked against every expectation that it has, and must have one.
#include "plan/compile.hpp"
#include "plan/text.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <string>
#include <string_view>
#include <vector>

using namespace ctcached;
namespace fs = std::filesystem;

namespace {

using Documents = std::vector<Source>;

// Every diagnostic, one a line; nothing for a clean policy.
std::string errors(const Documents& documents) {
    Diagnostics diagnostics;
    (void)compile(documents, {}, diagnostics);
    std::string text;
    for (const Diagnostic& entry : diagnostics.entries) text += diagnostics.to_text(entry) + "\n";
    return text;
}

// The zones with their ids, and the nftables table, as --print shows them.
std::string table(const Documents& documents) {
    Diagnostics diagnostics;
    const Compiled compiled = compile(documents, {}, diagnostics);
    return diagnostics.has_errors() ? errors(documents) : to_text(compiled.ids.zones) + to_text(compiled.ruleset);
}

struct Expectation {
    std::string_view file;
    std::string (*make)(const Documents&);
};
constexpr Expectation expectations[] = {
    {"expect.err", errors},
    {"expect.nft", table},
};

std::string read(const fs::path& path) {
    std::ifstream stream(path, std::ios::binary);
    std::ostringstream text;
    text << stream.rdbuf();
    return text.str();
}

Documents documents_of(const fs::path& folder) {
    std::vector<fs::path> paths;
    for (const auto& entry : fs::directory_iterator(folder))
        if (entry.path().extension() == ".yaml") paths.push_back(entry.path());
    std::sort(paths.begin(), paths.end(), [](const fs::path& a, const fs::path& b) {
        const bool first = a.filename() == "policy.yaml";
        const bool second = b.filename() == "policy.yaml";
        return first != second ? first : a.filename() < b.filename();
    });
    Documents documents;
    for (const fs::path& path : paths) documents.push_back({path.filename().string(), read(path)});
    return documents;
}

std::vector<std::string> lines_of(const std::string& text) {
    std::vector<std::string> lines;
    std::istringstream stream(text);
    for (std::string line; std::getline(stream, line);) lines.push_back(line);
    return lines;
}

// The lines between the common beginning and the common end.
void print_difference(const fs::path& path, const std::string& expected, const std::string& actual) {
    const auto old_lines = lines_of(expected);
    const auto new_lines = lines_of(actual);
    const auto [old_begin, new_begin] =
        std::mismatch(old_lines.begin(), old_lines.end(), new_lines.begin(), new_lines.end());
    const auto [old_end, new_end] = std::mismatch(old_lines.rbegin(), std::make_reverse_iterator(old_begin),
                                                  new_lines.rbegin(), std::make_reverse_iterator(new_begin));
    fmt::print("--- {}\n@@ line {} @@\n", path.string(), old_begin - old_lines.begin() + 1);
    for (auto line = old_begin; line != old_end.base(); ++line) fmt::print("-{}\n", *line);
    for (auto line = new_begin; line != new_end.base(); ++line) fmt::print("+{}\n", *line);
    if (old_lines == new_lines) fmt::print("(only the last line's end differs)\n");
}

enum class Outcome { same, different, written };

Outcome check(const fs::path& path, const std::string& actual, bool update) {
    const std::string expected = read(path);
    if (expected == actual) return Outcome::same;
    if (!update) {
        print_difference(path, expected, actual);
        return Outcome::different;
    }
    std::ofstream(path, std::ios::binary) << actual;
    return Outcome::written;
}

int run(const fs::path& root, bool update) {
    std::vector<fs::path> cases;
    for (const auto& entry : fs::directory_iterator(root))
        if (entry.is_directory()) cases.push_back(entry.path());
    std::sort(cases.begin(), cases.end());
    int checked = 0;
    int failed = 0;
    for (const fs::path& folder : cases) {
        const Documents documents = documents_of(folder);
        int found = 0;
        for (const Expectation& expectation : expectations) {
            const fs::path path = folder / expectation.file;
            if (!fs::exists(path)) continue;
            ++found;
            const Outcome outcome = check(path, expectation.make(documents), update);
            failed += outcome == Outcome::different ? 1 : 0;
            if (outcome == Outcome::written) fmt::print("wrote {}\n", path.string());
        }
        if (found == 0 || documents.empty()) {
            fmt::print("{}: no {}\n", folder.string(), documents.empty() ? "policy.yaml" : "expectation");
            ++failed;
        }
        checked += found;
    }
    fmt::print("{} cases, {} expectations, {} failed\n", cases.size(), checked, failed);
    return failed == 0 && checked > 0 ? 0 : 1;
}

} // namespace

int main(int argc, char** argv) {
    if (argc != 2) {
        fmt::print(stderr, "usage: {} FOLDER\n", argv[0]);
        return 2;
    }
    return run(argv[1], std::getenv("UPDATE") != nullptr);
}
