// yaml-cpp as a source of events, and what it must not see.
//
// The text is checked before the library gets it: size, UTF-8, no control characters. That also keeps the library from
// guessing UTF-16 from NUL bytes and from taking the byte 0x04, its own end mark, for the end of the text.
//
// The library's scanner has no quadratic paths that we found, but an appetite: it keeps all tokens of a bracketed list
// until the list is closed, since the list could still become a mapping's key, at more than 200 bytes of memory for one
// byte of text. So it reads through a buffer that counts: max_lookahead bytes without an event end the document.
//
// Aliases and anchors arrive as events before anything is expanded. Both are refused, tags as well: a policy needs none
// of them, and an alias could make a small text a huge tree.
#include "policy/tree.hpp"

#include "policy/parse.hpp"

#include <fmt/format.h>
#include <yaml-cpp/eventhandler.h>
#include <yaml-cpp/exceptions.h>
#include <yaml-cpp/mark.h>
#include <yaml-cpp/parser.h>

#include <algorithm>
#include <exception>
#include <istream>
#include <streambuf>
#include <utility>

namespace ctcached {
namespace {

// Ends the document: thrown through the library.
struct Stop : std::exception {
    Stop(Place where, std::string why) : place(where), text(std::move(why)) {}
    [[nodiscard]] const char* what() const noexcept override { return text.c_str(); }

    Place place;
    std::string text;
};

// The library counts lines and columns from 0, and has -1 for "nowhere".
Place place_of(std::uint32_t file, const YAML::Mark& mark) {
    return {file, static_cast<std::uint32_t>(mark.line + 1), static_cast<std::uint32_t>(mark.column + 1)};
}

// One code point at `text[at]`: its length and value; length 0 when it is not UTF-8 (RFC 3629, section 4).
struct CodePoint {
    std::size_t length = 0;
    char32_t value = 0;
};

CodePoint decode(std::string_view text, std::size_t at) {
    const auto byte = [&](std::size_t i) { return static_cast<unsigned char>(text[i]); };
    const unsigned char lead = byte(at);
    if (lead < 0x80) return {1, lead};
    const std::size_t length = lead >= 0xf0 ? 4 : lead >= 0xe0 ? 3 : 2;
    if (lead < 0xc2 || lead > 0xf4 || text.size() - at < length) return {};
    char32_t value = lead & (0x7fU >> length);
    for (std::size_t i = 1; i < length; ++i) {
        if ((byte(at + i) & 0xc0U) != 0x80) return {};
        value = value << 6U | (byte(at + i) & 0x3fU);
    }
    const bool overlong = (length == 3 && value < 0x800) || (length == 4 && value < 0x10000);
    const bool surrogate = value >= 0xd800 && value <= 0xdfff;
    if (overlong || surrogate || value > 0x10ffff) return {};
    return {length, value};
}

// Printable in the sense of YAML 1.2, section 5.1, without the C1 controls and without byte order marks; a carriage
// return only in front of a newline, because the library counts no line for a lone one.
bool printable(char32_t c, bool newline_follows) {
    if (c == '\t' || c == '\n') return true;
    if (c == '\r') return newline_follows;
    if (c < 0x20 || (c >= 0x7f && c <= 0x9f)) return false;
    return c != 0xfeff && c != 0xfffe && c != 0xffff;
}

// Throws Stop at the first byte that a policy cannot have.
void check_text(std::string_view text, std::uint32_t file) {
    Place place{file, 1, 1};
    for (std::size_t at = 0; at < text.size();) {
        const CodePoint c = decode(text, at);
        if (c.length == 0) throw Stop(place, "not UTF-8 text");
        if (!printable(c.value, at + 1 < text.size() && text[at + 1] == '\n'))
            throw Stop(place, fmt::format("a control character (U+{:04X})", static_cast<std::uint32_t>(c.value)));
        at += c.length;
        place.column += static_cast<std::uint32_t>(c.length);
        if (c.value == '\n') place = {file, place.line + 1, 1};
    }
}

// The library's words for a tab in the indentation are "illegal block entry" and the like.
bool tab_before(std::string_view text, Place place) {
    for (std::uint32_t line = 1; line < place.line; ++line)
        text.remove_prefix(std::min(text.find('\n'), text.size() - 1) + 1);
    return text.substr(0, std::min<std::size_t>(text.size(), place.column)).find('\t') != std::string_view::npos;
}

// The document in small portions; knows how far the library has read.
class Input : public std::streambuf {
public:
    explicit Input(std::string_view text) : text_(text) {}

    // An event came: what was read so far is being worked on.
    void progress() { last_event_ = position_; }

protected:
    int_type underflow() override {
        if (position_ == text_.size()) return traits_type::eof();
        // Reported by the caller, which knows the place of the last event.
        if (position_ - last_event_ > max_lookahead) throw Stop({}, {});
        const std::size_t portion = std::min<std::size_t>(text_.size() - position_, 4096);
        // The interface wants char*, but a get area is only read.
        char* begin = const_cast<char*>(text_.data()) + position_;
        setg(begin, begin, begin + portion);
        position_ += portion;
        return traits_type::to_int_type(*begin);
    }

private:
    std::string_view text_;
    std::size_t position_ = 0;
    std::size_t last_event_ = 0;
};

class Builder : public YAML::EventHandler {
public:
    Builder(std::uint32_t file, Input& input, Tree& tree, Diagnostics& diagnostics)
        : file_(file), input_(input), tree_(tree), diagnostics_(diagnostics), last_{file, 1, 1} {}

    [[nodiscard]] Place last() const { return last_; }

    void OnDocumentStart(const YAML::Mark& mark) override {
        const Place place = place_of(file_, mark);
        if (started_)
            throw Stop(place, "a second document: a file holds one, so this is either a stray '---' or "
                              "text behind the end of the first");
        started_ = true;
    }
    void OnDocumentEnd() override {}

    void OnNull(const YAML::Mark& mark, YAML::anchor_t anchor) override {
        leaf(mark, anchor == 0 ? NodeKind::null : NodeKind::refused, {});
    }
    void OnAlias(const YAML::Mark& mark, YAML::anchor_t /*anchor*/) override {
        diagnostics_.error(place_of(file_, mark), "an alias ('*name'): a policy may not have any, write the value out");
        leaf(mark, NodeKind::refused, {});
    }
    void OnAnchor(const YAML::Mark& mark, const std::string& /*name*/) override {
        diagnostics_.error(place_of(file_, mark), "an anchor ('&name'): a policy may not have any, remove it");
    }
    void OnScalar(const YAML::Mark& mark, const std::string& tag, YAML::anchor_t /*anchor*/,
                  const std::string& value) override {
        refuse_tag(mark, tag);
        leaf(mark, tag == "?" ? NodeKind::plain : NodeKind::quoted, value);
    }
    void OnSequenceStart(const YAML::Mark& mark, const std::string& tag, YAML::anchor_t /*anchor*/,
                         YAML::EmitterStyle::value /*style*/) override {
        refuse_tag(mark, tag);
        open(mark, NodeKind::sequence);
    }
    void OnSequenceEnd() override { close(); }
    void OnMapStart(const YAML::Mark& mark, const std::string& tag, YAML::anchor_t /*anchor*/,
                    YAML::EmitterStyle::value /*style*/) override {
        refuse_tag(mark, tag);
        open(mark, NodeKind::mapping);
    }
    void OnMapEnd() override { close(); }

private:
    // The library says "?" for an untagged plain node and "!" for a quoted one.
    void refuse_tag(const YAML::Mark& mark, const std::string& tag) {
        if (tag == "?" || tag == "!") return;
        diagnostics_.error(place_of(file_, mark), "a tag ('!name'): a policy may not have any, remove it");
    }

    TreeNode& add(const YAML::Mark& mark, NodeKind kind) {
        input_.progress();
        last_ = place_of(file_, mark);
        if (tree_.nodes.size() == max_nodes) throw Stop(last_, fmt::format("more than {} values", max_nodes));
        TreeNode& node = tree_.nodes.emplace_back();
        node.kind = kind;
        node.line = last_.line;
        node.column = last_.column;
        node.end = static_cast<std::uint32_t>(tree_.nodes.size());
        return node;
    }

    void leaf(const YAML::Mark& mark, NodeKind kind, const std::string& text) {
        TreeNode& node = add(mark, kind);
        node.text = static_cast<std::uint32_t>(tree_.text.size());
        node.length = static_cast<std::uint32_t>(text.size());
        tree_.text += text;
    }

    void open(const YAML::Mark& mark, NodeKind kind) {
        add(mark, kind);
        if (open_.size() == max_depth) throw Stop(last_, fmt::format("more than {} levels of nesting", max_depth));
        open_.push_back(static_cast<std::uint32_t>(tree_.nodes.size() - 1));
    }

    void close() {
        input_.progress();
        tree_.nodes[open_.back()].end = static_cast<std::uint32_t>(tree_.nodes.size());
        open_.pop_back();
    }

    std::uint32_t file_;
    Input& input_;
    Tree& tree_;
    Diagnostics& diagnostics_;
    std::vector<std::uint32_t> open_; // the nodes from the root to here
    Place last_;
    bool started_ = false;
};

} // namespace

std::optional<Tree> read_tree(std::string_view document, std::uint32_t file, Diagnostics& diagnostics) {
    constexpr std::string_view byte_order_mark = "\xef\xbb\xbf";
    if (document.size() > max_document_bytes) {
        diagnostics.error({file, 0, 0}, fmt::format("larger than {} MiB", max_document_bytes >> 20U));
        return std::nullopt;
    }
    if (document.starts_with(byte_order_mark)) document.remove_prefix(byte_order_mark.size());

    Tree tree;
    Input input(document);
    Builder builder(file, input, tree, diagnostics);
    try {
        check_text(document, file);
        std::istream stream(&input);
        YAML::Parser parser(stream);
        while (parser.HandleNextDocument(builder)) {
        }
        return tree;
    } catch (const Stop& stop) {
        if (stop.text.empty()) // from Input
            diagnostics.error(builder.last(),
                              fmt::format("no value ends within the next {} KiB: split a long bracketed "
                                          "list into one of lines with '-', and long comments",
                                          max_lookahead >> 10U));
        else
            diagnostics.error(stop.place, stop.text);
    } catch (const YAML::Exception& broken) {
        const Place place = place_of(file, broken.mark);
        diagnostics.error(place, fmt::format("not YAML: {}{}", broken.msg,
                                             tab_before(document, place) ? " (a tab: indent with spaces)" : ""));
    } catch (const std::exception& other) {
        diagnostics.error({file, 0, 0}, fmt::format("cannot be read as YAML: {}", other.what()));
    }
    return std::nullopt;
}

} // namespace ctcached
