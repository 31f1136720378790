// What Python's operators do to values. Each pays the budget for its work.
#pragma once

#include <cstddef>
#include <optional>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "text/jinja/runtime.h"
#include "text/jinja/value.h"

namespace ashlar::text::jinja {

enum class Op : std::uint8_t { add, subtract, multiply, divide, floor_divide, modulo, power };
enum class Comparison : std::uint8_t { equal, unequal, less, less_equal, greater, greater_equal, in, not_in };

bool truthy(const Value& value);

Result<Value> operate(Runtime& runtime, Op op, const Value& left, const Value& right);
Result<Value> negate(const Value& value, Runtime& runtime);
Result<Value> positive(const Value& value, Runtime& runtime);

Result<bool> compare(Runtime& runtime, Comparison comparison, const Value& left, const Value& right);
Result<bool> equal(Runtime& runtime, const Value& left, const Value& right);
Result<bool> less(Runtime& runtime, const Value& left, const Value& right);
Result<bool> contains(Runtime& runtime, const Value& haystack, const Value& needle);

// Keys of dicts. same_key() is for values whose hashes are equal, so the work
// was paid for by hash_value(). invalid: lists and dicts have no hash.
Result<std::size_t> hash_value(Runtime& runtime, const Value& value);
std::size_t hash_text(std::string_view text);
bool same_key(const Value& left, const Value& right);

// len(). invalid: it has none.
Result<std::size_t> length(Runtime& runtime, const Value& value);
bool has_length(const Value& value);

// iter(). invalid: not iterable.
Result<Ref<Iterator>> iterate(Runtime& runtime, const Value& value);
bool iterable(const Value& value);
// list().
Result<std::vector<Value>> collect(Runtime& runtime, const Value& value);

// Integers that fit; invalid otherwise, naming `what`.
Result<std::int64_t> to_index(const Value& value, std::string_view what);

}  // namespace ashlar::text::jinja
