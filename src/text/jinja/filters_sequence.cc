// Filters that take items from sequences, make new ones or join them. Those that
// Jinja writes as generators are generators here: walked once, when asked.
#include <fmt/format.h>

#include <algorithm>

#include "text/jinja/access.h"
#include "text/jinja/filters.h"
#include "text/jinja/iterators.h"
#include "text/jinja/markup.h"
#include "text/jinja/operate.h"
#include "text/jinja/print.h"

namespace ashlar::text::jinja {
namespace {

constexpr std::string_view kGenerator = "generator object";

Result<Value> generator(Runtime& runtime, const Value& source, Generator::Step step) {
  return runtime.iterator(Ref<Iterator>(new Generator(kGenerator, std::move(step))), source.depth());
}

Result<Value> default_value(Runtime& runtime, const Value& input, Arguments& arguments) {
  const auto [otherwise, boolean] = TRY(bind<2>("default", arguments, {"default_value", "boolean"}, 0));
  if (!input.is_undefined() && !(truthy(boolean) && !truthy(input))) return input;
  return otherwise.is(Kind::missing) ? runtime.string("") : Result<Value>(otherwise);
}

Result<Value> count(Runtime& runtime, const Value& input, Arguments& arguments) {
  TRY((bind<0>("length", arguments, {}, 0)));
  return Value::integer(static_cast<Int>(TRY(length(runtime, input))));
}

Result<Value> first(Runtime& runtime, const Value& input, Arguments& arguments) {
  TRY((bind<0>("first", arguments, {}, 0)));
  const auto walk = TRY(iterate(runtime, input));
  Value item;
  if (TRY(walk->next(runtime, item))) return item;
  return runtime.undefined_hint("No first item, sequence was empty.");
}

Result<Value> last(Runtime& runtime, const Value& input, Arguments& arguments) {
  TRY((bind<0>("last", arguments, {}, 0)));
  if (input.is_string()) {
    TRY(runtime.budget.walk(input.text().size()));
    if (input.text().empty()) return runtime.undefined_hint("No last item, sequence was empty.");
    return get_item(runtime, input, Value::integer(-1));
  }
  const Value backwards = TRY(reversed(runtime, input));
  Value item;
  if (TRY(backwards.as<Iterator>().next(runtime, item))) return item;
  return runtime.undefined_hint("No last item, sequence was empty.");
}

Result<Value> to_list(Runtime& runtime, const Value& input, Arguments& arguments) {
  TRY((bind<0>("list", arguments, {}, 0)));
  return runtime.list(TRY(collect(runtime, input)));
}

Result<Value> items(Runtime& runtime, const Value& input, Arguments& arguments) {
  TRY((bind<0>("items", arguments, {}, 0)));
  return generator(runtime, input, [input, at = std::size_t{0}](Runtime& rt, Value& out) mutable -> Result<bool> {
    if (input.is_undefined()) return false;
    if (!input.is(Kind::dict)) return template_error("Can only get item pairs from a mapping.");
    const auto& entries = input.as<Dict>().entries;
    if (at == entries.size()) return false;
    out = TRY(rt.tuple({entries[at].key, entries[at].value}));
    ++at;
    return true;
  });
}

Result<Value> reverse(Runtime& runtime, const Value& input, Arguments& arguments) {
  TRY((bind<0>("reverse", arguments, {}, 0)));
  if (input.is_string()) return get_slice(runtime, input, Value(), Value(), Value::integer(-1));
  const bool walks_back = input.is_sequence() || input.is(Kind::dict) || input.is(Kind::view) ||
                          input.is(Kind::range) || input.is_undefined();
  if (walks_back) return reversed(runtime, input);
  if (!iterable(input)) return template_error("argument must be iterable");
  auto all = TRY(collect(runtime, input));
  std::ranges::reverse(all);
  return runtime.list(std::move(all));
}

Result<Value> join(Runtime& runtime, const Value& input, Arguments& arguments) {
  const auto [separator, attribute] = TRY(bind<2>("join", arguments, {"d", "attribute"}, 0));
  const Path path = TRY(Path::create(runtime, attribute));
  const auto walk = TRY(iterate(runtime, input));
  const std::string between = separator.is(Kind::missing) ? "" : TRY(to_text(runtime, separator));
  const auto is_markup = [](const Value& v) { return v.is_string() && v.as<String>().markup; };
  std::vector<Value> parts;
  bool markup = runtime.autoescape && is_markup(separator);
  Value item;
  while (TRY(walk->next(runtime, item))) {
    TRY(runtime.budget.afford(parts.size() * sizeof(Value)));
    parts.push_back(TRY(path.get(runtime, item)));
    markup = markup || (runtime.autoescape && is_markup(parts.back()));
  }
  std::string out;
  for (std::size_t i = 0; i < parts.size(); ++i) {
    if (i > 0) out.append(markup && !is_markup(separator) ? escape_html(between) : between);
    if (markup && !is_markup(parts[i]))
      out.append(escape_html(TRY(to_text(runtime, parts[i]))));
    else
      TRY(append_text(runtime, out, parts[i]));
    TRY(runtime.budget.walk(between.size()));
    TRY(runtime.budget.afford(out.size()));
  }
  return runtime.string(std::move(out), markup);
}

// What map(), select() and their kin do to each item: prepared at the first one,
// because Jinja too complains only then.
class Each {
 public:
  enum class What : std::uint8_t { map, select, reject };
  Each(What what, bool attribute, Value source, Arguments arguments)
      : what_(what), attribute_(attribute), source_(std::move(source)), arguments_(std::move(arguments)) {}

  Result<bool> step(Runtime& runtime, Value& out) {
    if (!walk_) {
      if (!truthy(source_)) return false;
      TRY(what_ == What::map ? prepare_map(runtime) : prepare_test(runtime));
      walk_ = TRY(iterate(runtime, source_));
    }
    Value item;
    while (TRY(walk_->next(runtime, item))) {
      if (what_ == What::map) {
        out = TRY(mapped(runtime, item));
        return true;
      }
      if (TRY(passes(runtime, item)) == (what_ == What::select)) {
        out = std::move(item);
        return true;
      }
    }
    return false;
  }

 private:
  Status prepare_map(Runtime& runtime) {
    const auto named = [&](std::string_view name) {
      return std::ranges::find(arguments_.named, name, [](const auto& one) { return std::string_view(one.first); });
    };
    if (arguments_.positional.empty() && named("attribute") != arguments_.named.end()) {
      path_ = TRY(Path::create(runtime, named("attribute")->second));
      arguments_.named.erase(named("attribute"));
      if (const auto at = named("default"); at != arguments_.named.end()) {
        otherwise_ = at->second;
        arguments_.named.erase(at);
      }
      if (arguments_.named.empty()) return {};
      return template_error(fmt::format("Unexpected keyword argument '{}'", arguments_.named.front().first));
    }
    if (arguments_.positional.empty()) return template_error("map requires a filter argument");
    const std::string name = TRY(to_text(runtime, arguments_.positional[0]));
    arguments_.positional.erase(arguments_.positional.begin());
    filter_ = find_filter(name);
    if (filter_ == nullptr) return template_error(fmt::format("No filter named '{}'.", name));
    return {};
  }

  Status prepare_test(Runtime& runtime) {
    auto& given = arguments_.positional;
    if (attribute_) {
      if (given.empty()) return template_error("Missing parameter for attribute name");
      path_ = TRY(Path::create(runtime, given[0]));
      given.erase(given.begin());
    }
    if (given.empty()) return {};
    const std::string name = TRY(to_text(runtime, given[0]));
    given.erase(given.begin());
    test_ = find_test(name);
    if (test_ == nullptr) return template_error(fmt::format("No test named '{}'.", name));
    return {};
  }

  Result<Value> mapped(Runtime& runtime, const Value& item) {
    if (filter_ == nullptr) return path_.get(runtime, item, otherwise_);
    TRY(runtime.budget.spend(arguments_.positional.size() + arguments_.named.size()));
    Arguments copy = arguments_;
    return filter_->apply(runtime, item, copy);
  }

  Result<bool> passes(Runtime& runtime, const Value& item) {
    const Value value = TRY(path_.get(runtime, item));
    if (test_ == nullptr) return truthy(value);
    TRY(runtime.budget.spend(arguments_.positional.size() + arguments_.named.size()));
    Arguments copy = arguments_;
    return test_->holds(runtime, value, copy);
  }

  What what_;
  bool attribute_;
  Value source_;
  Arguments arguments_;
  Ref<Iterator> walk_;
  Path path_;
  Value otherwise_;
  const Filter* filter_ = nullptr;
  const Test* test_ = nullptr;
};

template <Each::What What, bool Attribute>
Result<Value> each(Runtime& runtime, const Value& input, Arguments& arguments) {
  return generator(runtime, input,
                   [each = Each(What, Attribute, input, std::move(arguments))](Runtime& rt, Value& out) mutable {
                     return each.step(rt, out);
                   });
}

Result<Value> batch(Runtime& runtime, const Value& input, Arguments& arguments) {
  const auto [linecount, fill] = TRY(bind<2>("batch", arguments, {"linecount", "fill_with"}, 1));
  const bool filled = !fill.is(Kind::missing) && !fill.is_none();
  auto step = [input, linecount, fill, filled, walk = Ref<Iterator>(), ended = false, held = Value()](
                  Runtime& rt, Value& out) mutable -> Result<bool> {
    const std::int64_t wanted = TRY(to_index(linecount, "linecount"));
    if (!walk) walk = TRY(iterate(rt, input));
    std::vector<Value> line;
    if (!held.is(Kind::missing)) line.push_back(std::exchange(held, Value()));
    Value item;
    while (!ended) {
      if (!TRY(walk->next(rt, item))) {
        ended = true;
        break;
      }
      if (static_cast<std::int64_t>(line.size()) == wanted) {
        held = std::move(item);
        out = TRY(rt.list(std::move(line)));
        return true;
      }
      TRY(rt.budget.afford(line.size() * sizeof(Value)));
      line.push_back(std::move(item));
    }
    if (line.empty()) return false;
    if (filled) {
      if (wanted > 0) TRY(rt.budget.spend(static_cast<std::size_t>(wanted)));
      while (static_cast<std::int64_t>(line.size()) < wanted) line.push_back(fill);
    }
    out = TRY(rt.list(std::move(line)));
    return true;
  };
  return generator(runtime, input, std::move(step));
}

Result<Value> slice(Runtime& runtime, const Value& input, Arguments& arguments) {
  const auto [slices, fill] = TRY(bind<2>("slice", arguments, {"slices", "fill_with"}, 1));
  const bool filled = !fill.is(Kind::missing) && !fill.is_none();
  auto step = [input, slices, fill, filled, all = std::vector<Value>(), begun = false, number = std::int64_t{0}](
                  Runtime& rt, Value& out) mutable -> Result<bool> {
    const std::int64_t wanted = TRY(to_index(slices, "slices"));
    if (!std::exchange(begun, true)) all = TRY(collect(rt, input));
    if (wanted == 0) return template_error("integer division or modulo by zero");
    if (number >= wanted) return false;
    const auto size = static_cast<std::int64_t>(all.size());
    const std::int64_t each_one = size / wanted, extra = size % wanted;
    const std::int64_t begin = number * each_one + std::min(number, extra);
    const std::int64_t end = begin + each_one + (number < extra);
    std::vector<Value> part(all.begin() + begin, all.begin() + end);
    if (filled && number >= extra) part.push_back(fill);
    ++number;
    out = TRY(rt.list(std::move(part)));
    return true;
  };
  return generator(runtime, input, std::move(step));
}

Result<Value> attribute(Runtime& runtime, const Value& input, Arguments& arguments) {
  const auto [name] = TRY(bind<1>("attr", arguments, {"name"}, 1));
  return get_attribute_only(runtime, input, name);
}

Result<Value> random(Runtime&, const Value&, Arguments&) {
  return template_error("the filter random is not supported: a chat template renders the same text each time");
}

constexpr Filter kFilters[] = {
    {"default", default_value},
    {"d", default_value},
    {"length", count},
    {"count", count},
    {"first", first},
    {"last", last},
    {"list", to_list},
    {"items", items},
    {"reverse", reverse},
    {"join", join},
    {"map", each<Each::What::map, false>},
    {"select", each<Each::What::select, false>},
    {"reject", each<Each::What::reject, false>},
    {"selectattr", each<Each::What::select, true>},
    {"rejectattr", each<Each::What::reject, true>},
    {"batch", batch},
    {"slice", slice},
    {"attr", attribute},
    {"random", random},
};

}  // namespace

std::span<const Filter> sequence_filters() { return kFilters; }

}  // namespace ashlar::text::jinja
