#include "text/jinja/pretty.h"

#include <algorithm>

#include "text/jinja/merge_sort.h"
#include "text/jinja/operate.h"
#include "text/jinja/print.h"
#include "text/jinja/unicode.h"

namespace ashlar::text::jinja {
namespace {

constexpr std::int64_t kWidth = 80;

// Long lists and dicts take a line for each item, where repr() does not fit.
class Pretty {
 public:
  Pretty(Runtime& runtime, std::string& out) : runtime_(runtime), out_(out) {}

  // `indent`: the column where it begins; `allowance`: what must still follow on its line.
  Status append(const Value& value, std::int64_t indent, std::int64_t allowance) {
    const Descent descent(runtime_);
    if (!descent.allowed()) return runtime_.budget.too_deep();
    const std::string plain = TRY(sorted_repr(value));
    TRY(runtime_.budget.walk(plain.size()));
    TRY(runtime_.budget.afford(out_.size() + plain.size()));
    const bool fits = static_cast<std::int64_t>(count_points(plain)) <= kWidth - indent - allowance;
    if (fits || !(value.is_sequence() || value.is(Kind::dict))) {
      out_.append(plain);
      return {};
    }
    if (value.is(Kind::dict)) return append_dict(value.as<Dict>(), indent, allowance);
    return append_items(value, indent, allowance);
  }

 private:
  Result<std::vector<const Dict::Entry*>> sorted(const Dict& dict) {
    std::vector<const Dict::Entry*> order;
    for (const auto& entry : dict.entries) order.push_back(&entry);
    TRY(runtime_.budget.spend(order.size() * 8));
    // Keys that cannot be compared sort by type; strings, the usual, by text.
    TRY(merge_sort(order, [&](const Dict::Entry* a, const Dict::Entry* b) -> Result<bool> {
      if (a->key.kind() != b->key.kind()) return type_name(a->key) < type_name(b->key);
      return less(runtime_, a->key, b->key).value_or(false);
    }));
    return order;
  }

  // repr() with the keys of dicts in order.
  Result<std::string> sorted_repr(const Value& value) {
    if (!value.is_sequence() && !value.is(Kind::dict)) return repr(runtime_, value);
    const Descent descent(runtime_);
    if (!descent.allowed()) return runtime_.budget.too_deep();
    TRY(runtime_.budget.spend(1));
    std::string out;
    if (value.is(Kind::dict)) {
      for (const auto* entry : TRY(sorted(value.as<Dict>()))) {
        out.append(out.empty() ? "{" : ", ");
        out.append(TRY(sorted_repr(entry->key)));
        out.append(": ").append(TRY(sorted_repr(entry->value)));
        TRY(runtime_.budget.walk(out.size() / 8));
      }
      return out.empty() ? "{}" : out + "}";
    }
    const bool list = value.is(Kind::list);
    const auto& items = value.as<List>().items;
    for (const Value& item : items) {
      out.append(out.empty() ? (list ? "[" : "(") : ", ").append(TRY(sorted_repr(item)));
      TRY(runtime_.budget.walk(out.size() / 8));
    }
    if (items.empty()) return list ? "[]" : "()";
    return out + (list ? "]" : items.size() == 1 ? ",)" : ")");
  }

  void newline(std::int64_t indent) { out_.append(",\n").append(static_cast<std::size_t>(indent), ' '); }

  Status append_items(const Value& value, std::int64_t indent, std::int64_t allowance) {
    const bool list = value.is(Kind::list);
    const auto& items = value.as<List>().items;
    const std::string_view close = list ? "]" : items.size() == 1 ? ",)" : ")";
    out_.append(list ? "[" : "(");
    for (std::size_t i = 0; i < items.size(); ++i) {
      if (i > 0) newline(indent + 1);
      const bool last = i + 1 == items.size();
      TRY(append(items[i], indent + 1, last ? allowance + static_cast<std::int64_t>(close.size()) : 1));
    }
    out_.append(close);
    return {};
  }

  Status append_dict(const Dict& dict, std::int64_t indent, std::int64_t allowance) {
    out_.append("{");
    const auto order = TRY(sorted(dict));
    for (std::size_t i = 0; i < order.size(); ++i) {
      if (i > 0) newline(indent + 1);
      const std::string key = TRY(sorted_repr(order[i]->key));
      out_.append(key).append(": ");
      const std::int64_t column = indent + 1 + static_cast<std::int64_t>(count_points(key)) + 2;
      TRY(append(order[i]->value, column, i + 1 == order.size() ? allowance + 1 : 1));
    }
    out_.append("}");
    return {};
  }

  Runtime& runtime_;
  std::string& out_;
};

}  // namespace

Result<std::string> pretty(Runtime& runtime, const Value& value) {
  std::string out;
  TRY(Pretty(runtime, out).append(value, 0, 0));
  return out;
}

}  // namespace ashlar::text::jinja
