#include "text/jinja/runtime.h"

#include <fmt/format.h>

#include <algorithm>

#include "text/jinja/operate.h"

namespace ashlar::text::jinja {

Status Runtime::nest(Object& object, int below) {
  object.depth = below + 1;
  if (object.depth > budget.limits().depth) return budget.too_deep();
  return {};
}

Result<Value> Runtime::string(std::string text, bool markup) {
  TRY(budget.take(text.size() + sizeof(String)));
  return Value(Kind::string, new String(std::move(text), markup));
}

namespace {

int deepest(const std::vector<Value>& items) {
  int depth = 0;
  for (const Value& item : items) depth = std::max(depth, item.depth());
  return depth;
}

}  // namespace

Result<Value> Runtime::list(std::vector<Value> items) {
  TRY(budget.take(items.size() * sizeof(Value) + sizeof(List)));
  const int below = deepest(items);
  Ref<List> made(new List(std::move(items)));
  TRY(nest(*made, below));
  return Value(Kind::list, made.get());
}

Result<Value> Runtime::tuple(std::vector<Value> items) {
  TRY(budget.take(items.size() * sizeof(Value) + sizeof(List)));
  const int below = deepest(items);
  Ref<List> made(new List(std::move(items)));
  TRY(nest(*made, below));
  return Value(Kind::tuple, made.get());
}

Result<Value> Runtime::dict(Ref<Dict> entries) {
  TRY(budget.take(entries->entries.size() * sizeof(Dict::Entry) + sizeof(Dict)));
  int below = 0;
  for (const auto& entry : entries->entries) below = std::max({below, entry.key.depth(), entry.value.depth()});
  TRY(nest(*entries, below));
  return Value(Kind::dict, entries.get());
}

Status Runtime::insert(Dict& dict, Value key, Value value) {
  const std::size_t hash = TRY(hash_value(*this, key));
  dict.set(std::move(key), hash, std::move(value));
  return {};
}

Result<Value> Runtime::iterator(Ref<Iterator> made, int below) {
  TRY(budget.take(sizeof(Iterator) + 64));
  TRY(nest(*made, below));
  return Value(Kind::iterator, made.get());
}

Result<Value> Runtime::method(std::string_view name, Function::Native native, const Value& self) {
  TRY(budget.take(sizeof(Function)));
  Ref<Function> made(new Function(name, native, self));
  TRY(nest(*made, self.depth()));
  return Value(Kind::function, made.get());
}

Value Runtime::undefined(std::string_view name) {
  budget.owe(sizeof(Undefined) + sizeof(String));
  auto* made = new Undefined;
  Value value(Kind::undefined, made);
  made->name = Value(Kind::string, new String(std::string(name), false));
  return value;
}

Value Runtime::undefined_item(const Value& owner, const Value& name) {
  budget.owe(sizeof(Undefined) + sizeof(String));
  auto* made = new Undefined;
  Value value(Kind::undefined, made);
  made->owner = object_type_name(owner);
  // A key nested too deep to be held is not worth showing.
  made->depth = name.depth() + 1;
  if (made->depth <= budget.limits().depth)
    made->name = name;
  else
    made->depth = 1;
  return value;
}

Value Runtime::undefined_hint(std::string hint) {
  budget.owe(sizeof(Undefined) + sizeof(String));
  auto* made = new Undefined;
  made->hint = std::move(hint);
  return Value(Kind::undefined, made);
}

Error template_error(std::string message) { return Error{Code::invalid, std::move(message)}; }

Error undefined_error(Runtime& runtime, const Value& undefined) {
  return template_error(undefined.as<Undefined>().message(runtime));
}

Status bind_arguments(std::string_view callee, const Arguments& arguments, std::span<const std::string_view> names,
                      std::size_t required, std::span<Value> out) {
  if (arguments.positional.size() > names.size()) {
    return template_error(
        fmt::format("{}() takes at most {} arguments, {} given", callee, names.size(), arguments.positional.size()));
  }
  std::ranges::copy(arguments.positional, out.begin());
  for (const auto& [name, value] : arguments.named) {
    const auto at = std::ranges::find(names, name);
    if (at == names.end()) {
      return template_error(fmt::format("{}() got an unexpected keyword argument '{}'", callee, name));
    }
    Value& place = out[static_cast<std::size_t>(at - names.begin())];
    if (!place.is(Kind::missing)) {
      return template_error(fmt::format("{}() got multiple values for argument '{}'", callee, name));
    }
    place = value;
  }
  for (std::size_t i = 0; i < required; ++i) {
    if (out[i].is(Kind::missing)) {
      const std::string_view name = names[i].substr(names[i].starts_with('/'));
      return template_error(fmt::format("{}() missing required argument '{}'", callee, name));
    }
  }
  return {};
}

}  // namespace ashlar::text::jinja
