// Filters that compare items: sort, groupby, unique, min, max.
#include <fmt/format.h>

#include <algorithm>

#include "text/jinja/filters.h"
#include "text/jinja/iterators.h"
#include "text/jinja/merge_sort.h"
#include "text/jinja/operate.h"
#include "text/jinja/unicode.h"

namespace ashlar::text::jinja {
namespace {

// Strings compare in lower case unless told otherwise.
Result<Value> comparable(Runtime& runtime, const Value& value, bool case_sensitive) {
  if (case_sensitive || !value.is_string()) return value;
  TRY(runtime.budget.spend(value.text().size() / 4));
  return runtime.string(to_lower(value.text()), value.as<String>().markup);
}

struct Keyed {
  Value item, key;
};

// Python's sorted(): stable, also backwards.
Status sort_keyed(Runtime& runtime, std::vector<Keyed>& items, bool backwards) {
  TRY(runtime.budget.afford(items.size() * sizeof(Keyed) * 2));
  return merge_sort(items, [&](const Keyed& a, const Keyed& b) {
    return backwards ? less(runtime, b.key, a.key) : less(runtime, a.key, b.key);
  });
}

// Jinja's make_multi_attrgetter: "a,b.c" gives a list of two.
class Paths {
 public:
  static Result<Paths> create(Runtime& runtime, const Value& attribute) {
    Paths paths;
    if (!attribute.is_string()) {
      paths.paths_.push_back(TRY(Path::create(runtime, attribute)));
      return paths;
    }
    std::string_view rest = attribute.text();
    while (true) {
      const std::size_t comma = std::min(rest.find(','), rest.size());
      const Value path = TRY(runtime.string(std::string(rest.substr(0, comma))));
      paths.paths_.push_back(TRY(Path::create(runtime, path)));
      if (comma == rest.size()) return paths;
      rest.remove_prefix(comma + 1);
    }
  }
  Result<Value> get(Runtime& runtime, const Value& item, bool case_sensitive) const {
    std::vector<Value> keys;
    for (const Path& path : paths_) {
      const Value value = TRY(path.get(runtime, item));
      keys.push_back(TRY(comparable(runtime, value, case_sensitive)));
    }
    return runtime.list(std::move(keys));
  }

 private:
  std::vector<Path> paths_;
};

Result<Value> unkeyed(Runtime& runtime, std::vector<Keyed> keyed) {
  std::vector<Value> items;
  items.reserve(keyed.size());
  for (Keyed& one : keyed) items.push_back(std::move(one.item));
  return runtime.list(std::move(items));
}

Result<Value> sort(Runtime& runtime, const Value& input, Arguments& arguments) {
  const auto [reverse, case_sensitive, attribute] =
      TRY(bind<3>("sort", arguments, {"reverse", "case_sensitive", "attribute"}, 0));
  const Paths paths = TRY(Paths::create(runtime, attribute));
  std::vector<Keyed> keyed;
  for (Value& item : TRY(collect(runtime, input))) {
    Value key = TRY(paths.get(runtime, item, truthy(case_sensitive)));
    keyed.push_back({std::move(item), std::move(key)});
  }
  TRY(sort_keyed(runtime, keyed, truthy(reverse)));
  return unkeyed(runtime, std::move(keyed));
}

Result<Value> dictsort(Runtime& runtime, const Value& input, Arguments& arguments) {
  const auto [case_sensitive, by, reverse] =
      TRY(bind<3>("dictsort", arguments, {"case_sensitive", "by", "reverse"}, 0));
  const bool by_value = by.is_string() && by.text() == "value";
  if (!by.is(Kind::missing) && !by_value && !(by.is_string() && by.text() == "key")) {
    return template_error("You can only sort by either \"key\" or \"value\"");
  }
  if (input.is_undefined()) return undefined_error(runtime, input);
  if (!input.is(Kind::dict)) {
    return template_error(fmt::format("'{}' object has no attribute 'items'", type_name(input)));
  }
  std::vector<Keyed> keyed;
  for (const auto& entry : input.as<Dict>().entries) {
    Value key = TRY(comparable(runtime, by_value ? entry.value : entry.key, truthy(case_sensitive)));
    keyed.push_back({TRY(runtime.tuple({entry.key, entry.value})), std::move(key)});
  }
  TRY(sort_keyed(runtime, keyed, truthy(reverse)));
  return unkeyed(runtime, std::move(keyed));
}

Result<Value> groupby(Runtime& runtime, const Value& input, Arguments& arguments) {
  const auto [attribute, otherwise, case_sensitive] =
      TRY(bind<3>("groupby", arguments, {"attribute", "default", "case_sensitive"}, 1));
  const Path path = TRY(Path::create(runtime, attribute));
  std::vector<Keyed> keyed;
  for (Value& item : TRY(collect(runtime, input))) {
    const Value value = TRY(path.get(runtime, item, otherwise));
    Value key = TRY(comparable(runtime, value, truthy(case_sensitive)));
    keyed.push_back({std::move(item), std::move(key)});
  }
  TRY(sort_keyed(runtime, keyed, false));
  std::vector<Value> groups;
  for (std::size_t begin = 0; begin < keyed.size();) {
    std::vector<Value> members;
    std::size_t end = begin;
    while (end < keyed.size() && (end == begin || TRY(equal(runtime, keyed[begin].key, keyed[end].key)))) {
      members.push_back(keyed[end++].item);
    }
    // The group is called as its first member spells it.
    Value name = TRY(path.get(runtime, members[0], otherwise));
    Value list = TRY(runtime.list(std::move(members)));
    Value group = TRY(runtime.tuple({std::move(name), std::move(list)}));
    group.as<List>().group = true;
    groups.push_back(std::move(group));
    begin = end;
  }
  return runtime.list(std::move(groups));
}

Result<Value> unique(Runtime& runtime, const Value& input, Arguments& arguments) {
  const auto [case_sensitive, attribute] = TRY(bind<2>("unique", arguments, {"case_sensitive", "attribute"}, 0));
  auto step = [input, exact = truthy(case_sensitive), attribute, walk = Ref<Iterator>(), path = Path(),
               seen = Ref<Dict>(new Dict)](Runtime& rt, Value& out) mutable -> Result<bool> {
    if (!walk) {
      path = TRY(Path::create(rt, attribute));
      walk = TRY(iterate(rt, input));
    }
    while (TRY(walk->next(rt, out))) {
      const Value value = TRY(path.get(rt, out));
      Value key = TRY(comparable(rt, value, exact));
      const std::size_t before = seen->entries.size();
      TRY(rt.insert(*seen, std::move(key), Value::none()));
      if (seen->entries.size() == before) continue;
      TRY(rt.budget.take(sizeof(Dict::Entry)));
      return true;
    }
    return false;
  };
  return runtime.iterator(Ref<Iterator>(new Generator("generator object", std::move(step))), input.depth());
}

template <bool Largest>
Result<Value> extreme(Runtime& runtime, const Value& input, Arguments& arguments) {
  const auto [case_sensitive, attribute] =
      TRY(bind<2>(Largest ? "max" : "min", arguments, {"case_sensitive", "attribute"}, 0));
  const Path path = TRY(Path::create(runtime, attribute));
  const auto walk = TRY(iterate(runtime, input));
  Value best, best_key, item;
  while (TRY(walk->next(runtime, item))) {
    const Value value = TRY(path.get(runtime, item));
    Value key = TRY(comparable(runtime, value, truthy(case_sensitive)));
    const bool better =
        best.is(Kind::missing) || TRY(Largest ? less(runtime, best_key, key) : less(runtime, key, best_key));
    if (better) best = std::move(item), best_key = std::move(key);
  }
  if (best.is(Kind::missing)) return runtime.undefined_hint("No aggregated item, sequence was empty.");
  return best;
}

constexpr Filter kFilters[] = {
    {"sort", sort},     {"dictsort", dictsort},  {"groupby", groupby},
    {"unique", unique}, {"min", extreme<false>}, {"max", extreme<true>},
};

}  // namespace

std::span<const Filter> order_filters() { return kFilters; }

}  // namespace ashlar::text::jinja
