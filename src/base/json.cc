#include "base/json_full.h"

#include <fmt/format.h>

#include "base/utf8.h"

namespace ashlar {
namespace {

// nlohmann's own builder, stopped at our limits.
class LimitedBuilder : public nlohmann::detail::json_sax_dom_parser<Json> {
  using Base = nlohmann::detail::json_sax_dom_parser<Json>;

 public:
  LimitedBuilder(Json& root, JsonLimits limits) : Base(root, /*allow_exceptions=*/false), limits_(limits) {}

  bool start_object(std::size_t n) { return enter() && Base::start_object(n); }
  bool start_array(std::size_t n) { return enter() && Base::start_array(n); }
  bool end_object() {
    members_.pop_back();
    return Base::end_object();
  }
  bool end_array() {
    members_.pop_back();
    return Base::end_array();
  }
  bool key(std::string& text) {
    if (++members_.back() > limits_.members) {
      error_ = {Code::too_large, fmt::format("JSON: an object has more than {} members", limits_.members)};
      return false;
    }
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
  bool enter() {
    if (members_.size() >= limits_.depth) {
      error_ = {Code::too_large, fmt::format("JSON: nested deeper than {}", limits_.depth)};
      return false;
    }
    members_.push_back(0);
    return true;
  }

  JsonLimits limits_;
  std::vector<std::size_t> members_;  // one entry per open object or array
  Error error_{Code::invalid, "JSON: not a value"};
};

}  // namespace

Result<Json> parse_json(std::string_view text, JsonLimits limits) {
  Json root;
  LimitedBuilder builder(root, limits);
  if (!Json::sax_parse(text.begin(), text.end(), &builder)) return builder.error();
  return root;
}

std::string dump_json(const Json& json) {
  return json.dump(-1, ' ', false, Json::error_handler_t::replace);
}

void append_json_string(std::string& out, std::string_view text) {
  static constexpr char kHex[] = "0123456789abcdef";
  out.push_back('"');
  for (std::size_t i = 0; i < text.size();) {
    const auto byte = static_cast<unsigned char>(text[i]);
    if (byte >= 0x80) {
      const auto step = utf8::decode(text.substr(i));
      if (step.valid) out.append(text.substr(i, step.bytes));
      else out.append("\xEF\xBF\xBD");
      i += step.bytes;
      continue;
    }
    switch (byte) {
      case '"': out.append("\\\""); break;
      case '\\': out.append("\\\\"); break;
      case '\n': out.append("\\n"); break;
      case '\r': out.append("\\r"); break;
      case '\t': out.append("\\t"); break;
      default:
        if (byte < 0x20) {
          out.append("\\u00");
          out.push_back(kHex[byte >> 4]);
          out.push_back(kHex[byte & 15]);
        } else {
          out.push_back(static_cast<char>(byte));
        }
    }
    ++i;
  }
  out.push_back('"');
}

}  // namespace ashlar
