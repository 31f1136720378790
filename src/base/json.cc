#include "base/json_full.h"

#include <fmt/format.h>

#include <algorithm>
#include <memory>
#include <set>
#include <vector>

#include "base/utf8.h"

namespace ashlar {
namespace {

// A large object whose members are handed on rather than kept.
struct Walk {
  std::string_view in;  // its name in the text's object; empty: that object
  std::size_t most;
  const JsonVisitor& visit;
};

// nlohmann's own builder, stopped at our limits.
class LimitedBuilder : public nlohmann::detail::json_sax_dom_parser<Json> {
  using Base = nlohmann::detail::json_sax_dom_parser<Json>;

 public:
  // `walk` may be null.
  LimitedBuilder(Json& root, JsonLimits limits, const Walk* walk)
      : Base(root, /*allow_exceptions=*/false), root_(root), limits_(limits), walk_(walk) {
    open_.reserve(8);
  }

  bool null() { return element() && Base::null(); }
  bool boolean(bool value) { return element() && Base::boolean(value); }
  bool number_integer(Json::number_integer_t value) { return element() && Base::number_integer(value); }
  bool number_unsigned(Json::number_unsigned_t value) { return element() && Base::number_unsigned(value); }
  bool number_float(Json::number_float_t value, const std::string& text) {
    return element() && Base::number_float(value, text);
  }
  bool string(std::string& value) { return element() && Base::string(value); }
  bool start_object(std::size_t n) {
    if (!element() || !enter(/*array=*/false) || !Base::start_object(n)) return false;
    if (open_.size() == 1) root_.get_ref<Json::object_t&>().reserve(8);
    return true;
  }
  bool start_array(std::size_t n) { return element() && enter(/*array=*/true) && Base::start_array(n); }
  bool end_object() {
    if (walked() && !hand_on()) return false;
    open_.pop_back();
    return Base::end_object();
  }
  bool end_array() {
    open_.pop_back();
    return Base::end_array();
  }
  bool key(std::string& text) {
    const bool walked_one = walked();
    if (walked_one && !hand_on()) return false;
    const std::size_t most = walked_one ? walk_->most : limits_.members;
    if (++open_.back().count > most)
      return fail(Code::too_large, fmt::format("JSON: an object has more than {} members", most));
    if (limits_.unique && !walked_one && !open_.back().names->insert(text).second)
      return fail(Code::invalid, "JSON: a name stands twice in one object");
    if (open_.size() == 1 && walk_ != nullptr) in_named_ = text == walk_->in;
    return Base::key(text);
  }
  bool parse_error(std::size_t position, const std::string& token, const nlohmann::detail::exception& e) {
    // The library's sentence begins with its own error number; what follows the colon is for people.
    std::string_view what = e.what();
    if (auto at = what.find("] "); at != what.npos) what.remove_prefix(at + 2);
    error_ = {Code::invalid, fmt::format("JSON: byte {}: {}", position, what)};
    return Base::parse_error(position, token, e);
  }
  const Error& error() const { return error_; }

 private:
  struct Open {
    bool array;
    std::size_t count = 0;
    std::unique_ptr<std::set<std::string, std::less<>>> names;  // where they must be unique
  };

  bool fail(Code code, std::string what) {
    error_ = {code, std::move(what)};
    return false;
  }

  // A value begins.
  bool element() {
    if (open_.empty() || !open_.back().array || ++open_.back().count <= limits_.elements) return true;
    return fail(Code::too_large, fmt::format("JSON: an array has more than {} elements", limits_.elements));
  }

  bool enter(bool array) {
    if (open_.size() >= limits_.depth)
      return fail(Code::too_large, fmt::format("JSON: nested deeper than {}", limits_.depth));
    open_.push_back({.array = array});
    if (limits_.unique && !array) open_.back().names = std::make_unique<std::set<std::string, std::less<>>>();
    return true;
  }

  // Whether the innermost open object is the one whose members are handed on.
  bool walked() const {
    if (walk_ == nullptr || open_.back().array) return false;
    return walk_->in.empty() ? open_.size() == 1 : open_.size() == 2 && in_named_ && !open_.front().array;
  }

  // The member that has been read last, if any, goes to the visitor.
  bool hand_on() {
    Json& object = walk_->in.empty() ? root_ : root_[std::string(walk_->in)];
    for (const auto& [name, value] : object.items())
      if (Status status = walk_->visit(name, value); !status) {
        error_ = std::move(status).error();
        return false;
      }
    object.clear();
    return true;
  }

  Json& root_;
  JsonLimits limits_;
  const Walk* walk_;
  bool in_named_ = false;   // the text's object is within its member walk_->in
  std::vector<Open> open_;  // objects and arrays, the outermost first
  Error error_{Code::invalid, "JSON: not a value"};
};

Result<Json> parse(std::string_view text, JsonLimits limits, const Walk* walk) {
  Json root;
  LimitedBuilder builder(root, limits, walk);
  if (!Json::sax_parse(text.begin(), text.end(), &builder)) return builder.error();
  return root;
}

}  // namespace

Result<Json> parse_json(std::string_view text, JsonLimits limits) { return parse(text, limits, nullptr); }

Result<Json> parse_json_members(std::string_view text, std::string_view in, std::size_t most, JsonLimits limits,
                                const JsonVisitor& visit) {
  const Walk walk{in, most, visit};
  return parse(text, limits, &walk);
}

std::string dump_json(const Json& json) { return json.dump(-1, ' ', false, Json::error_handler_t::replace); }

void append_json_string(std::string& out, std::string_view text) {
  static constexpr char kHex[] = "0123456789abcdef";
  out.reserve(out.size() + text.size() + 2);
  out.push_back('"');
  for (std::size_t i = 0; i < text.size();) {
    const auto special = std::find_if(text.begin() + static_cast<std::ptrdiff_t>(i), text.end(), [](char c) {
      const auto byte = static_cast<unsigned char>(c);
      return byte < 0x20 || byte >= 0x80 || byte == '"' || byte == '\\';
    });
    const auto plain = static_cast<std::size_t>(special - text.begin()) - i;
    out.append(text.substr(i, plain));
    i += plain;
    if (i == text.size()) break;
    const auto byte = static_cast<unsigned char>(text[i]);
    if (byte >= 0x80) {
      const auto step = utf8::decode(text.substr(i));
      if (step.valid)
        out.append(text.substr(i, step.bytes));
      else
        out.append("\xEF\xBF\xBD");
      i += step.bytes;
      continue;
    }
    switch (byte) {
      case '"':
        out.append("\\\"");
        break;
      case '\\':
        out.append("\\\\");
        break;
      case '\n':
        out.append("\\n");
        break;
      case '\r':
        out.append("\\r");
        break;
      case '\t':
        out.append("\\t");
        break;
      default:
        out.append("\\u00");
        out.push_back(kHex[byte >> 4]);
        out.push_back(kHex[byte & 15]);
    }
    ++i;
  }
  out.push_back('"');
}

}  // namespace ashlar
