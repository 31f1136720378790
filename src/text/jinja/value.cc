#include "text/jinja/value.h"

#include <algorithm>

#include "text/jinja/operate.h"
#include "text/jinja/print.h"

namespace ashlar::text::jinja {

void Object::destroy(Object* object) {
  // A chain of namespaces may be a million long: what dies while something dies
  // waits in line instead of on the stack.
  thread_local std::vector<Object*> waiting;
  thread_local bool busy = false;
  if (busy) {
    waiting.push_back(object);
    return;
  }
  busy = true;
  delete object;
  while (!waiting.empty()) {
    Object* next = waiting.back();
    waiting.pop_back();
    delete next;
  }
  busy = false;
}

std::string_view Value::text() const { return as<String>().text; }

bool Value::same(const Value& other) const {
  if (kind_ != other.kind_) return false;
  if (counted()) return data_.object == other.data_.object;
  if (kind_ == Kind::floating) return data_.floating == other.data_.floating;
  return kind_ == Kind::none || kind_ == Kind::missing || data_.integer == other.data_.integer;
}

std::size_t String::points() {
  if (points_ < 0) {
    points_ = std::ranges::count_if(text, [](char c) { return (static_cast<unsigned char>(c) & 0xC0) != 0x80; });
  }
  return static_cast<std::size_t>(points_);
}

namespace {
constexpr std::size_t kSmallDict = 8;
}

template <class Same>
std::ptrdiff_t Dict::locate(std::size_t hash, Same&& same) const {
  if (table_.empty()) {
    for (std::size_t i = 0; i < entries.size(); ++i) {
      if (entries[i].hash == hash && same(entries[i].key)) return static_cast<std::ptrdiff_t>(i);
    }
    return -1;
  }
  const std::size_t mask = table_.size() - 1;
  for (std::size_t at = hash & mask; table_[at] != 0; at = (at + 1) & mask) {
    const Entry& entry = entries[table_[at] - 1];
    if (entry.hash == hash && same(entry.key)) return table_[at] - 1;
  }
  return -1;
}

std::ptrdiff_t Dict::find(const Value& key, std::size_t hash) const {
  return locate(hash, [&](const Value& other) { return same_key(key, other); });
}

std::ptrdiff_t Dict::find(std::string_view key) const {
  return locate(hash_text(key), [&](const Value& other) { return other.is_string() && other.text() == key; });
}

void Dict::index(std::size_t entry) {
  const std::size_t mask = table_.size() - 1;
  std::size_t at = entries[entry].hash & mask;
  while (table_[at] != 0) at = (at + 1) & mask;
  table_[at] = static_cast<std::uint32_t>(entry + 1);
}

void Dict::set(Value key, std::size_t hash, Value value) {
  if (const auto at = find(key, hash); at >= 0) {
    entries[static_cast<std::size_t>(at)].value = std::move(value);
    return;
  }
  entries.push_back({std::move(key), std::move(value), hash});
  if (entries.size() <= kSmallDict) return;
  if (entries.size() * 2 > table_.size()) {
    table_.assign(std::max<std::size_t>(32, table_.size() * 2), 0);
    for (std::size_t i = 0; i < entries.size(); ++i) index(i);
  } else {
    index(entries.size() - 1);
  }
}

std::int64_t Range::length() const {
  const Int length = step > 0 ? (start < stop ? (stop - start - 1) / step + 1 : 0)
                              : (start > stop ? (start - stop - 1) / -step + 1 : 0);
  return static_cast<std::int64_t>(length);
}

std::string Undefined::message(Runtime& runtime) const {
  if (!hint.empty()) return hint;
  std::string shown = "?";
  if (auto text = repr(runtime, name)) shown = *std::move(text);
  if (owner.empty()) return shown + " is undefined";
  if (!name.is_string()) return std::string(owner) + " has no element " + shown;
  return "'" + std::string(owner) + "' has no attribute " + shown;
}

void Mutable::clear_all(Registry& registry) {
  std::vector<Ref<Mutable>> living;
  living.reserve(registry.size());
  for (Mutable* one : registry) living.emplace_back(one);
  for (const auto& one : living) one->clear();
}

namespace {

struct TypeNames {
  std::string_view plain, jinja;
};

TypeNames names_of(const Value& value) {
  switch (value.kind()) {
    case Kind::missing:
      return {"MissingType", "jinja2.utils.MissingType object"};
    case Kind::undefined:
      return {"Undefined", "jinja2.runtime.Undefined object"};
    case Kind::none:
      return {"NoneType", "None"};
    case Kind::boolean:
      return {"bool", "bool object"};
    case Kind::integer:
      return {"int", "int object"};
    case Kind::floating:
      return {"float", "float object"};
    case Kind::string:
      if (value.as<String>().markup) return {"Markup", "markupsafe.Markup object"};
      return {"str", "str object"};
    case Kind::list:
      return {"list", "list object"};
    case Kind::tuple:
      if (value.as<List>().group) return {"_GroupTuple", "jinja2.filters._GroupTuple object"};
      return {"tuple", "tuple object"};
    case Kind::dict:
      return {"dict", "dict object"};
    case Kind::view:
      switch (value.as<View>().of) {
        case View::Of::keys:
          return {"dict_keys", "dict_keys object"};
        case View::Of::values:
          return {"dict_values", "dict_values object"};
        case View::Of::items:
          return {"dict_items", "dict_items object"};
      }
      break;
    case Kind::range:
      return {"range", "range object"};
    case Kind::iterator:
      return {value.as<Iterator>().type_name(), value.as<Iterator>().label()};
    case Kind::space:
      return {"Namespace", "jinja2.utils.Namespace object"};
    case Kind::function:
      if (value.as<Function>().self.is(Kind::missing)) return {"function", "function object"};
      return {"builtin_function_or_method", "builtin_function_or_method object"};
    case Kind::macro:
      return {"Macro", "jinja2.runtime.Macro object"};
    case Kind::loop:
      return {"LoopContext", "jinja2.runtime.LoopContext object"};
    case Kind::cycler:
      return {"Cycler", "jinja2.utils.Cycler object"};
    case Kind::joiner:
      return {"Joiner", "jinja2.utils.Joiner object"};
  }
  return {"object", "object object"};
}

}  // namespace

std::string_view type_name(const Value& value) { return names_of(value).plain; }
std::string_view object_type_name(const Value& value) { return names_of(value).jinja; }

}  // namespace ashlar::text::jinja
