// object.attribute, object[item] and object[from:to:by], as Jinja's immutable
// sandbox answers them.
#pragma once

#include <string_view>

#include "text/jinja/runtime.h"
#include "text/jinja/value.h"

namespace ashlar::text::jinja {

// The attribute if there is one, else the item, else undefined.
Result<Value> get_attribute(Runtime& runtime, const Value& object, const Value& name);
// The item if there is one, else the attribute, else undefined.
Result<Value> get_item(Runtime& runtime, const Value& object, const Value& key);
// The attribute alone, else undefined: the filter |attr.
Result<Value> get_attribute_only(Runtime& runtime, const Value& object, const Value& name);

// Bounds that are missing or none are open.
Result<Value> get_slice(Runtime& runtime, const Value& object, const Value& from, const Value& to, const Value& by);

// Python's slice.indices(), and how many indices that is.
struct Stride {
  std::int64_t first, last, step, count;
};
Result<Stride> slice_stride(std::int64_t length, const Value& from, const Value& to, const Value& by);

// A method of the type of `object`; missing if it has none of that name.
Result<Value> find_method(Runtime& runtime, const Value& object, std::string_view name);

}  // namespace ashlar::text::jinja
