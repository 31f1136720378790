#include "text/jinja/methods.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <unordered_map>

#include "text/jinja/access.h"
#include "text/jinja/evaluate.h"
#include "text/jinja/operate.h"
#include "text/jinja/print.h"

namespace ashlar::text::jinja {
namespace {

Result<Value> dict_get(Runtime& runtime, const Value& self, Arguments& arguments) {
  auto [key, otherwise] = TRY(bind<2>("get", arguments, {"/key", "/default"}, 1));
  const auto& dict = self.as<Dict>();
  const auto at = dict.find(key, TRY(hash_value(runtime, key)));
  if (at >= 0) return dict.entries[static_cast<std::size_t>(at)].value;
  return otherwise.is(Kind::missing) ? Value::none() : otherwise;
}

template <View::Of Of>
Result<Value> dict_view(Runtime& runtime, const Value& self, Arguments& arguments) {
  TRY((bind<0>("dict method", arguments, {}, 0)));
  TRY(runtime.budget.take(sizeof(View)));
  const Value made(Kind::view, new View(Ref<Dict>(&self.as<Dict>()), Of));
  made.object()->depth = self.depth() + 1;
  if (made.depth() > runtime.budget.limits().depth) return runtime.budget.too_deep();
  return made;
}

Result<Value> dict_copy(Runtime& runtime, const Value& self, Arguments& arguments) {
  TRY((bind<0>("copy", arguments, {}, 0)));
  TRY(runtime.budget.spend(self.as<Dict>().entries.size()));
  Ref<Dict> made(new Dict);
  for (const auto& entry : self.as<Dict>().entries) made->set(entry.key, entry.hash, entry.value);
  return runtime.dict(std::move(made));
}

Result<Value> dict_fromkeys(Runtime& runtime, const Value&, Arguments& arguments) {
  const auto [keys, value] = TRY(bind<2>("fromkeys", arguments, {"/iterable", "/value"}, 1));
  Ref<Dict> made(new Dict);
  for (Value& key : TRY(collect(runtime, keys))) {
    TRY(runtime.insert(*made, std::move(key), value.is(Kind::missing) ? Value::none() : value));
  }
  return runtime.dict(std::move(made));
}

Result<Value> sequence_count(Runtime& runtime, const Value& self, Arguments& arguments) {
  const auto [wanted] = TRY(bind<1>("count", arguments, {"/value"}, 1));
  Int count = 0;
  const auto items = TRY(collect(runtime, self));
  for (const Value& item : items) count += item.same(wanted) || TRY(equal(runtime, item, wanted));
  return Value::integer(count);
}

Result<Value> sequence_index(Runtime& runtime, const Value& self, Arguments& arguments) {
  const auto [wanted, from, to] = TRY(bind<3>("index", arguments, {"/value", "/start", "/stop"}, 1));
  const auto items = TRY(collect(runtime, self));
  const auto stride = TRY(slice_stride(static_cast<std::int64_t>(items.size()), from, to, Value()));
  for (std::int64_t i = 0; i < stride.count; ++i) {
    const Value& item = items[static_cast<std::size_t>(stride.first + i)];
    if (item.same(wanted) || TRY(equal(runtime, item, wanted))) return Value::integer(stride.first + i);
  }
  return template_error(TRY(repr(runtime, wanted)) + fmt::format(" is not in {}", type_name(self)));
}

Result<Value> list_copy(Runtime& runtime, const Value& self, Arguments& arguments) {
  TRY((bind<0>("copy", arguments, {}, 0)));
  TRY(runtime.budget.spend(self.as<List>().items.size()));
  return runtime.list(self.as<List>().items);
}

Result<Value> loop_cycle(Runtime&, const Value& self, Arguments& arguments) {
  const auto& items = arguments.positional;
  if (!arguments.named.empty()) return template_error("cycle() takes no keyword arguments");
  if (items.empty()) return template_error("no items for cycling given");
  const auto at = static_cast<std::size_t>(std::max<std::int64_t>(0, self.as<Loop>().index0));
  return items[at % items.size()];
}

Result<Value> loop_changed(Runtime& runtime, const Value& self, Arguments& arguments) {
  if (!arguments.named.empty()) return template_error("changed() takes no keyword arguments");
  auto& loop = self.as<Loop>();
  Value seen = TRY(runtime.tuple(arguments.positional));
  if (!loop.changed.is(Kind::missing) && TRY(equal(runtime, loop.changed, seen))) return Value::boolean(false);
  loop.changed = std::move(seen);
  return Value::boolean(true);
}

Result<Value> cycler_next(Runtime&, const Value& self, Arguments& arguments) {
  TRY((bind<0>("next", arguments, {}, 0)));
  auto& cycler = self.as<Cycler>();
  Value item = cycler.items[cycler.position];
  cycler.position = (cycler.position + 1) % cycler.items.size();
  return item;
}

Result<Value> cycler_reset(Runtime&, const Value& self, Arguments& arguments) {
  TRY((bind<0>("reset", arguments, {}, 0)));
  self.as<Cycler>().position = 0;
  return Value::none();
}

Result<Value> bit_length(Runtime&, const Value& self, Arguments& arguments) {
  TRY((bind<0>("bit_length", arguments, {}, 0)));
  Int rest = self.as_integer();
  Int bits = 0;
  auto magnitude = rest < 0 ? -static_cast<unsigned __int128>(rest) : static_cast<unsigned __int128>(rest);
  for (; magnitude != 0; magnitude >>= 1) ++bits;
  return Value::integer(bits);
}

Result<Value> number_itself(Runtime&, const Value& self, Arguments& arguments) {
  TRY((bind<0>("conjugate", arguments, {}, 0)));
  return self.is(Kind::boolean) ? Value::integer(self.as_integer()) : self;
}

Result<Value> is_integer(Runtime&, const Value& self, Arguments& arguments) {
  TRY((bind<0>("is_integer", arguments, {}, 0)));
  return Value::boolean(std::isfinite(self.as_double()) && std::floor(self.as_double()) == self.as_double());
}

constexpr Method kDict[] = {
    {"get", dict_get},
    {"items", dict_view<View::Of::items>},
    {"keys", dict_view<View::Of::keys>},
    {"values", dict_view<View::Of::values>},
    {"copy", dict_copy},
    {"fromkeys", dict_fromkeys},
};
constexpr Method kSequence[] = {{"count", sequence_count}, {"index", sequence_index}};
constexpr Method kList[] = {{"count", sequence_count}, {"index", sequence_index}, {"copy", list_copy}};
constexpr Method kLoop[] = {{"cycle", loop_cycle}, {"changed", loop_changed}};
constexpr Method kCycler[] = {{"next", cycler_next}, {"reset", cycler_reset}};
constexpr Method kInteger[] = {{"bit_length", bit_length}, {"conjugate", number_itself}};
constexpr Method kFloat[] = {{"is_integer", is_integer}, {"conjugate", number_itself}};

const Method* find_string_method(std::string_view name) {
  static const auto table = [] {
    std::unordered_map<std::string_view, const Method*> made;
    for (const auto methods : {string_methods(), string_split_methods(), string_question_methods()}) {
      for (const Method& method : methods) made.emplace(method.name, &method);
    }
    return made;
  }();
  const auto at = table.find(name);
  return at == table.end() ? nullptr : at->second;
}

const Method* find_in(std::span<const Method> methods, std::string_view name) {
  const auto at = std::ranges::find(methods, name, &Method::name);
  return at == methods.end() ? nullptr : &*at;
}

const Method* find_of(Kind kind, std::string_view name) {
  switch (kind) {
    case Kind::string:
      return find_string_method(name);
    case Kind::dict:
      return find_in(kDict, name);
    case Kind::list:
      return find_in(kList, name);
    case Kind::tuple:
    case Kind::range:
      return find_in(kSequence, name);
    case Kind::loop:
      return find_in(kLoop, name);
    case Kind::cycler:
      return find_in(kCycler, name);
    case Kind::boolean:
    case Kind::integer:
      return find_in(kInteger, name);
    case Kind::floating:
      return find_in(kFloat, name);
    default:
      return nullptr;
  }
}

}  // namespace

Result<Value> find_method(Runtime& runtime, const Value& object, std::string_view name) {
  const Method* method = find_of(object.kind(), name);
  if (method == nullptr) return Value();
  return runtime.method(method->name, method->native, object);
}

}  // namespace ashlar::text::jinja
