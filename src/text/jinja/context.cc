#include "text/jinja/context.h"

#include <fmt/format.h>

#include <algorithm>
#include <ctime>

#include "base/json_full.h"
#include "base/utf8.h"
#include "text/jinja/evaluate.h"
#include "text/jinja/methods.h"
#include "text/jinja/operate.h"
#include "text/jinja/print.h"

namespace ashlar::text::jinja {

Result<Value> from_json(Runtime& runtime, const Json& json) {
  const Descent descent(runtime);
  if (!descent.allowed()) return runtime.budget.too_deep();
  switch (json.type()) {
    case Json::value_t::boolean:
      return Value::boolean(json.get<bool>());
    case Json::value_t::number_integer:
      return Value::integer(json.get<std::int64_t>());
    case Json::value_t::number_unsigned:
      return Value::integer(json.get<std::uint64_t>());
    case Json::value_t::number_float:
      return Value::floating(json.get<double>());
    case Json::value_t::string: {
      const auto& text = json.get_ref<const std::string&>();
      return runtime.string(utf8::is_valid(text) ? text : utf8::sanitize(text));
    }
    case Json::value_t::array: {
      std::vector<Value> items;
      items.reserve(json.size());
      for (const Json& item : json) items.push_back(TRY(from_json(runtime, item)));
      return runtime.list(std::move(items));
    }
    case Json::value_t::object: {
      Ref<Dict> made(new Dict);
      for (const auto& [key, value] : json.items()) {
        Value name = TRY(runtime.string(utf8::is_valid(key) ? key : utf8::sanitize(key)));
        Value item = TRY(from_json(runtime, value));
        TRY(runtime.insert(*made, std::move(name), std::move(item)));
      }
      return runtime.dict(std::move(made));
    }
    default:
      return Value::none();
  }
}

namespace {

constexpr std::int64_t kMaxRange = 100'000;  // jinja2.sandbox.MAX_RANGE

Result<Value> make_range(Runtime& runtime, const Value&, Arguments& arguments) {
  const auto [first, second, third] = TRY(bind<3>("range", arguments, {"/start", "/stop", "/step"}, 1));
  for (const Value* value : {&first, &second, &third}) {
    if (value->is_undefined()) {
      return template_error("'Undefined' object cannot be interpreted as an integer");
    }
  }
  const bool one = second.is(Kind::missing);
  const std::int64_t start = one ? 0 : TRY(to_index(first, "range"));
  const std::int64_t stop = TRY(to_index(one ? first : second, "range"));
  const std::int64_t step = third.is(Kind::missing) ? 1 : TRY(to_index(third, "range"));
  if (step == 0) return template_error("range() arg 3 must not be zero");
  const Int span = step > 0 ? static_cast<Int>(stop) - start : static_cast<Int>(start) - stop;
  const Int stride = step > 0 ? static_cast<Int>(step) : -static_cast<Int>(step);
  if (span > 0 && (span - 1) / stride + 1 > kMaxRange) {
    return template_error(
        fmt::format("Range too big. The sandbox blocks ranges larger than MAX_RANGE ({}).", kMaxRange));
  }
  TRY(runtime.budget.take(sizeof(Range)));
  return Value(Kind::range, new Range(start, stop, step));
}

// dict(mapping or pairs, **names).
Result<Ref<Dict>> build_dict(Runtime& runtime, Arguments& arguments) {
  if (arguments.positional.size() > 1) {
    return template_error(fmt::format("dict expected at most 1 argument, got {}", arguments.positional.size()));
  }
  Ref<Dict> made(new Dict);
  if (!arguments.positional.empty()) {
    const Value& from = arguments.positional[0];
    if (from.is_undefined()) return undefined_error(runtime, from);
    if (from.is(Kind::dict)) {
      TRY(runtime.budget.spend(from.as<Dict>().entries.size()));
      for (const auto& entry : from.as<Dict>().entries) made->set(entry.key, entry.hash, entry.value);
    } else {
      const auto walk = TRY(iterate(runtime, from));
      Value pair;
      for (std::size_t i = 0; TRY(walk->next(runtime, pair)); ++i) {
        auto items =
            iterable(pair)
                ? collect(runtime, pair)
                : template_error(fmt::format("cannot convert dictionary update sequence element #{} to a sequence", i));
        if (!items) return items.error();
        if (items->size() != 2) {
          return template_error(
              fmt::format("dictionary update sequence element #{} has length {}; 2 is required", i, items->size()));
        }
        TRY(runtime.insert(*made, std::move((*items)[0]), std::move((*items)[1])));
        TRY(runtime.budget.take(sizeof(Dict::Entry)));
      }
    }
  }
  for (auto& [name, value] : arguments.named) {
    Value key = TRY(runtime.string(name));
    TRY(runtime.insert(*made, std::move(key), std::move(value)));
  }
  return made;
}

Result<Value> make_dict(Runtime& runtime, const Value&, Arguments& arguments) {
  return runtime.dict(TRY(build_dict(runtime, arguments)));
}

Result<Value> make_namespace(Runtime& runtime, const Value&, Arguments& arguments) {
  auto attributes = TRY(build_dict(runtime, arguments));
  TRY(runtime.budget.take(sizeof(Space)));
  return Value(Kind::space, new Space(runtime.living, std::move(attributes)));
}

Result<Value> make_cycler(Runtime& runtime, const Value&, Arguments& arguments) {
  if (!arguments.named.empty()) return template_error("cycler() takes no keyword arguments");
  if (arguments.positional.empty()) return template_error("at least one item has to be provided");
  TRY(runtime.budget.take(sizeof(Cycler)));
  auto* made = new Cycler;
  const Value value(Kind::cycler, made);
  for (const Value& item : arguments.positional) made->depth = std::max(made->depth, item.depth() + 1);
  made->items = std::move(arguments.positional);
  if (made->depth > runtime.budget.limits().depth) return runtime.budget.too_deep();
  return value;
}

Result<Value> make_joiner(Runtime& runtime, const Value&, Arguments& arguments) {
  auto [separator] = TRY(bind<1>("joiner", arguments, {"sep"}, 0));
  if (separator.is(Kind::missing)) separator = TRY(runtime.string(", "));
  TRY(runtime.budget.take(sizeof(Joiner)));
  auto* made = new Joiner;
  const Value value(Kind::joiner, made);
  made->depth = separator.depth() + 1;
  made->separator = std::move(separator);
  if (made->depth > runtime.budget.limits().depth) return runtime.budget.too_deep();
  return value;
}

Result<Value> raise_exception(Runtime& runtime, const Value&, Arguments& arguments) {
  const auto [message] = TRY(bind<1>("raise_exception", arguments, {"message"}, 1));
  return template_error(TRY(to_text(runtime, message)));
}

Result<Value> strftime_now(Runtime& runtime, const Value&, Arguments& arguments) {
  const auto [format] = TRY(bind<1>("strftime_now", arguments, {"format"}, 1));
  if (!format.is_string()) {
    return template_error(fmt::format("strftime() argument 1 must be str, not {}", type_name(format)));
  }
  // strftime() cannot tell a text that was too long from an empty one; a character
  // more makes sure it is never empty.
  constexpr std::size_t kLongest = 1 << 18;
  const std::string asked = std::string(format.text()) + " ";
  if (asked.find('\0') != asked.npos) return template_error("embedded null character");
  std::tm local{};
  localtime_r(&runtime.now, &local);
  for (std::size_t room = 256 + asked.size(); room <= kLongest; room *= 8) {
    TRY(runtime.budget.walk(room));
    std::string text(room, '\0');
    const std::size_t length = std::strftime(text.data(), room, asked.c_str(), &local);
    if (length == 0) continue;
    text.resize(length - 1);
    return runtime.string(utf8::is_valid(text) ? std::move(text) : utf8::sanitize(text));
  }
  return template_error("strftime format is too long");
}

Result<Value> lipsum(Runtime&, const Value&, Arguments&) {
  return template_error("lipsum() gives random text, which a chat template may not");
}

constexpr Method kGlobals[] = {
    {"range", make_range},   {"dict", make_dict}, {"namespace", make_namespace},        {"cycler", make_cycler},
    {"joiner", make_joiner}, {"lipsum", lipsum},  {"raise_exception", raise_exception}, {"strftime_now", strftime_now},
};

}  // namespace

Value global(std::string_view name) {
  const auto* at = std::ranges::find(kGlobals, name, &Method::name);
  if (at == std::end(kGlobals)) return Value();
  return Value(Kind::function, new Function(at->name, at->native, Value()));
}

}  // namespace ashlar::text::jinja
