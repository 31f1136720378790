#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "base/utf8.h"
#include "text/jinja/merge_sort.h"
#include "text/jinja/operate.h"
#include "text/jinja/print.h"

namespace ashlar::text::jinja {
namespace {

void append_escape(std::string& out, char32_t code) {
  const auto unit = [&](std::uint32_t value) { out.append(fmt::format("\\u{:04x}", value)); };
  if (code < 0x10000) return unit(code);
  unit(0xD800 + ((code - 0x10000) >> 10));
  unit(0xDC00 + ((code - 0x10000) & 0x3FF));
}

class JsonPrinter {
 public:
  JsonPrinter(Runtime& runtime, const JsonStyle& style, std::string& out)
      : runtime_(runtime), style_(style), out_(out) {}

  Status append(const Value& value) {
    TRY(runtime_.budget.spend(1));
    switch (value.kind()) {
      case Kind::none:
        return put("null");
      case Kind::boolean:
        return put(value.as_bool() ? "true" : "false");
      case Kind::integer:
        return put(integer_text(value.as_integer()));
      case Kind::floating:
        return put(number(value.as_double()));
      case Kind::string:
        return append_string(value.text());
      case Kind::list:
      case Kind::tuple:
        return append_array(value.as<List>().items);
      case Kind::dict:
        return append_object(value.as<Dict>());
      default:
        return template_error(fmt::format("Object of type {} is not JSON serializable", type_name(value)));
    }
  }

 private:
  Status put(std::string_view text) {
    out_.append(text);
    return {};
  }

  static std::string number(double value) {
    if (std::isnan(value)) return "NaN";
    if (std::isinf(value)) return value < 0 ? "-Infinity" : "Infinity";
    return float_text(value);
  }

  Status append_string(std::string_view text) {
    TRY(runtime_.budget.walk(text.size()));
    TRY(runtime_.budget.afford(out_.size() + text.size()));
    out_.push_back('"');
    for (std::size_t i = 0; i < text.size();) {
      const auto step = utf8::decode(text.substr(i));
      append_char(step.code, text.substr(i, step.bytes));
      i += step.bytes;
    }
    return put("\"");
  }

  void append_char(char32_t code, std::string_view bytes) {
    switch (code) {
      case '"':
        out_.append("\\\"");
        return;
      case '\\':
        out_.append("\\\\");
        return;
      case '\n':
        out_.append("\\n");
        return;
      case '\r':
        out_.append("\\r");
        return;
      case '\t':
        out_.append("\\t");
        return;
      case '\f':
        out_.append("\\f");
        return;
      case '\b':
        out_.append("\\b");
        return;
      default:
        break;
    }
    if (code < 0x20 || (style_.ensure_ascii && code > 0x7E))
      append_escape(out_, code);
    else
      out_.append(bytes);
  }

  Status newline() {
    if (!style_.indent) return {};
    const std::size_t width = style_.indent->size() * static_cast<std::size_t>(level_) + 1;
    TRY(runtime_.budget.walk(width));
    TRY(runtime_.budget.afford(out_.size() + width));
    out_.push_back('\n');
    for (int i = 0; i < level_; ++i) out_.append(*style_.indent);
    return {};
  }

  Status append_array(const std::vector<Value>& items) {
    if (items.empty()) return put("[]");
    const Descent descent(runtime_);
    if (!descent.allowed()) return runtime_.budget.too_deep();
    TRY(runtime_.budget.afford(out_.size()));
    out_.push_back('[');
    ++level_;
    for (std::size_t i = 0; i < items.size(); ++i) {
      if (i > 0) out_.append(style_.item_separator);
      TRY(newline());
      TRY(append(items[i]));
    }
    --level_;
    TRY(newline());
    return put("]");
  }

  Status append_object(const Dict& dict) {
    if (dict.entries.empty()) return put("{}");
    const Descent descent(runtime_);
    if (!descent.allowed()) return runtime_.budget.too_deep();
    TRY(runtime_.budget.afford(out_.size()));
    std::vector<const Dict::Entry*> order;
    for (const auto& entry : dict.entries) order.push_back(&entry);
    if (style_.sort_keys) TRY(sort(order));
    out_.push_back('{');
    ++level_;
    for (std::size_t i = 0; i < order.size(); ++i) {
      if (i > 0) out_.append(style_.item_separator);
      TRY(newline());
      TRY(append_key(order[i]->key));
      out_.append(style_.key_separator);
      TRY(append(order[i]->value));
    }
    --level_;
    TRY(newline());
    return put("}");
  }

  Status append_key(const Value& key) {
    switch (key.kind()) {
      case Kind::string:
        return append_string(key.text());
      case Kind::none:
        return put("\"null\"");
      case Kind::boolean:
        return put(key.as_bool() ? "\"true\"" : "\"false\"");
      case Kind::integer:
        return put('"' + integer_text(key.as_integer()) + '"');
      case Kind::floating:
        return put('"' + number(key.as_double()) + '"');
      default:
        return template_error(fmt::format("keys must be str, int, float, bool or None, not {}", type_name(key)));
    }
  }

  Status sort(std::vector<const Dict::Entry*>& order) {
    return merge_sort(order,
                      [&](const Dict::Entry* a, const Dict::Entry* b) { return less(runtime_, a->key, b->key); });
  }

  Runtime& runtime_;
  const JsonStyle& style_;
  std::string& out_;
  int level_ = 0;
};

}  // namespace

Result<std::string> to_json(Runtime& runtime, const Value& value, const JsonStyle& style) {
  std::string out;
  TRY(JsonPrinter(runtime, style, out).append(value));
  return out;
}

}  // namespace ashlar::text::jinja
