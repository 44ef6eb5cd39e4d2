// The search path over a folder of the test's own.

#include "kernel/config.hpp"

#include <doctest/doctest.h>

#include <algorithm>
#include <cstdlib>
#include <fstream>
#include <initializer_list>

using namespace ctcached;
namespace fs = std::filesystem;

namespace {

class Tree {
public:
    Tree() {
        std::string name = (fs::temp_directory_path() / "ctcached-config-XXXXXX").native();
        REQUIRE(::mkdtemp(name.data()) != nullptr);
        root = name;
    }
    Tree(const Tree&) = delete;
    Tree& operator=(const Tree&) = delete;
    ~Tree() { fs::remove_all(root); }

    void put(const fs::path& path, std::string_view text) const {
        fs::create_directories((root / path).parent_path());
        std::ofstream(root / path) << text;
    }
    void load(std::initializer_list<ConfigPath> paths) {
        std::vector<ConfigPath> below;
        for (const auto& [path, optional] : paths) below.push_back({root / path, optional});
        diagnostics = {};
        config = load_config(below, diagnostics);
    }
    // "name=text name=text ", names below the root.
    [[nodiscard]] std::string sources() const {
        std::string result;
        for (const auto& [name, text] : config.sources) result += below(name) + "=" + text + " ";
        return result;
    }
    [[nodiscard]] std::string errors() const {
        std::string result;
        for (const auto& entry : diagnostics.entries)
            result += below(diagnostics.files.at(entry.place.file)) + ": " + entry.text + "\n";
        return result;
    }
    [[nodiscard]] std::string watched() const {
        std::string result;
        for (const auto& path : config.watch) result += below(path) + " ";
        return result;
    }
    [[nodiscard]] std::string below(const fs::path& path) const { return path.lexically_relative(root).native(); }

    fs::path root;
    LoadedConfig config;
    Diagnostics diagnostics;
};

} // namespace

TEST_CASE("the default search path") {
    std::string paths;
    for (const auto& [path, optional] : default_config_paths()) paths += path.native() + (optional ? "? " : " ");
    CHECK(paths == "/etc/ctcached/ctcached.yaml? /etc/ctcached/policies.d? /run/ctcached/policies.d? "
                   "/usr/lib/ctcached/policies.d? ");
}

TEST_CASE("main files, then drop-ins by name, the first folder wins") {
    Tree tree;
    const std::initializer_list<ConfigPath> path = {
        {"etc/ctcached.yaml", true}, {"etc/policies.d", true}, {"run/policies.d", true}, {"usr/policies.d", true}};
    tree.load(path);
    CHECK(tree.sources().empty());
    CHECK(tree.errors().empty());
    CHECK(tree.watched() == "etc/ctcached.yaml etc/policies.d run/policies.d usr/policies.d ");

    tree.put("etc/ctcached.yaml", "main");
    tree.put("etc/other.yaml", "not on the path");
    tree.put("etc/policies.d/50-office.yaml", "etc");
    tree.put("run/policies.d/10-first.yaml", "run");
    tree.put("run/policies.d/50-office.yaml", "masked");
    tree.put("usr/policies.d/50-office.yaml", "masked");
    tree.put("usr/policies.d/90-last.yaml", "usr");
    tree.put("usr/policies.d/README", "no policy");
    tree.put("usr/policies.d/.90-last.yaml", "hidden");
    tree.put("usr/policies.d/x.yaml~", "backup");
    tree.put("usr/policies.d/x.yml", "another ending");
    tree.load(path);
    CHECK(tree.sources() == "etc/ctcached.yaml=main run/policies.d/10-first.yaml=run "
                            "etc/policies.d/50-office.yaml=etc usr/policies.d/90-last.yaml=usr ");
    CHECK(tree.errors().empty());

    tree.put("etc/policies.d/90-last.yaml", ""); // switches it off
    fs::create_symlink("/dev/null", tree.root / "etc/policies.d/10-first.yaml");
    tree.load(path);
    CHECK(tree.sources() == "etc/ctcached.yaml=main etc/policies.d/50-office.yaml=etc ");
    CHECK(tree.errors().empty());
    CHECK(tree.watched() ==
          "etc/ctcached.yaml etc/policies.d etc/policies.d/10-first.yaml run/policies.d usr/policies.d ");
}

TEST_CASE("a folder that is named") {
    Tree tree;
    tree.put("a/z.yaml", "z");
    tree.put("a/m.yaml", "m");
    tree.put("a/policies.d/10.yaml", "a10");
    tree.put("b/m.yaml", "masked");
    tree.put("b/n.yaml", "n");
    tree.put("b/policies.d/05.yaml", "b05");
    tree.put("b/policies.d/10.yaml", "masked");
    tree.put("c.yaml", "c");
    tree.load({{"c.yaml"}, {"a"}, {"b"}});
    CHECK(tree.sources() ==
          "c.yaml=c a/m.yaml=m a/z.yaml=z b/n.yaml=n b/policies.d/05.yaml=b05 a/policies.d/10.yaml=a10 ");
    CHECK(tree.watched() == "a a/policies.d b b/policies.d c.yaml ");
    tree.load({{"a/policies.d/"}, {"c.yaml"}}); // named with a slash: drop-ins all the same
    CHECK(tree.sources() == "c.yaml=c a/policies.d/10.yaml=a10 ");
    tree.load({{"c.yaml"}, {"c.yaml"}}); // twice is what was asked for
    CHECK(tree.sources() == "c.yaml=c c.yaml=c ");
    CHECK(tree.watched() == "c.yaml ");
    fs::create_directory(tree.root / "empty");
    tree.load({{"empty"}});
    CHECK(tree.sources().empty());
    CHECK(tree.errors().empty());
    CHECK(tree.watched() == "empty empty/policies.d ");
}

TEST_CASE("a named file is a source even when it is empty") {
    Tree tree;
    tree.put("empty.yaml", "");
    tree.load({{"empty.yaml"}});
    CHECK(tree.sources() == "empty.yaml= ");
}

TEST_CASE("what cannot be read") {
    Tree tree;
    tree.load({{"missing.yaml"}, {"missing"}});
    CHECK(tree.errors() == "missing.yaml: No such file or directory\nmissing: No such file or directory\n");
    CHECK(tree.watched() == "missing missing.yaml ");

    tree.put("good.yaml", "good");
    fs::create_directories(tree.root / "d/policies.d/folder.yaml");
    fs::create_directories(tree.root / "d/own.yaml");
    fs::create_symlink("nowhere", tree.root / "d/policies.d/dangling.yaml");
    fs::create_symlink("loop.yaml", tree.root / "d/policies.d/loop.yaml");
    tree.load({{"good.yaml"}, {"d"}});
    CHECK(tree.sources() == "good.yaml=good ");
    CHECK(tree.errors() == "d/own.yaml: Is a directory\nd/policies.d/dangling.yaml: No such file or directory\n"
                           "d/policies.d/folder.yaml: Is a directory\n"
                           "d/policies.d/loop.yaml: Too many levels of symbolic links\n");

    // Even an optional path must not be of the wrong kind.
    tree.put("e/policies.d", "a file");
    tree.load({{"e"}, {"good.yaml/below", true}});
    CHECK(tree.errors() == "e/policies.d: Not a directory\n");

    fs::create_directory(tree.root / "f");
    fs::create_symlink("/dev/zero", tree.root / "f/endless.yaml");
    tree.load({{"f"}});
    CHECK(tree.errors() == "f/endless.yaml: larger than 16 MiB\n");
}
