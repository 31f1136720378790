// What one rendering carries along: its budget, its living mutable objects, the
// clock it shows, and how values are made and called.
// Owned by ChatTemplate::render; one thread.
#pragma once

#include <array>
#include <ctime>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "text/jinja/budget.h"
#include "text/jinja/value.h"

namespace ashlar::text::jinja {

class Runtime {
 public:
  Runtime(const TemplateLimits& limits, std::time_t now_in) : budget(limits), now(now_in) {}
  virtual ~Runtime() = default;

  // Calls whatever can be called; the evaluator knows macros and loops.
  virtual Result<Value> call(const Value& callee, Arguments& arguments) = 0;

  // New values, paid for. too_large: the budget, or nested too deep.
  Result<Value> string(std::string text, bool markup = false);
  Result<Value> list(std::vector<Value> items);
  Result<Value> tuple(std::vector<Value> items);
  Result<Value> dict(Ref<Dict> entries);
  // The key is hashed here. invalid: it cannot be a key.
  Status insert(Dict& dict, Value key, Value value);
  // An iterator over something nested `below` deep.
  Result<Value> iterator(Ref<Iterator> iterator, int below);
  Result<Value> method(std::string_view name, Function::Native native, const Value& self);

  Value undefined(std::string_view name);
  Value undefined_item(const Value& owner, const Value& name);
  Value undefined_hint(std::string hint);

  Budget budget;
  const std::time_t now;
  int line = 0;  // of the statement at work, for errors
  bool autoescape = false;
  Mutable::Registry living;  // of namespaces, loops, scopes
  int descent = 0;           // see Descent

 private:
  Status nest(Object& object, int below);
};

// One level of recursion of the evaluator, of printing or of comparing. Check
// allowed() before going on.
class Descent {
 public:
  // Nodes of syntax and values that nest are counted alike: a call of a macro is
  // some ten levels, so this is wider than TemplateLimits::depth.
  static constexpr int kLevelsPerDepth = 16;

  explicit Descent(Runtime& runtime) : runtime_(runtime) { ++runtime_.descent; }
  ~Descent() { --runtime_.descent; }
  Descent(const Descent&) = delete;
  bool allowed() const { return runtime_.descent <= runtime_.budget.limits().depth * kLevelsPerDepth; }

 private:
  Runtime& runtime_;
};

// Python's exceptions by name, all Code::invalid.
Error template_error(std::string message);

// The error of touching an undefined value.
Error undefined_error(Runtime& runtime, const Value& undefined);

// Matches arguments to parameters as Python does: by position, then by name.
// `out` has a place for each of `names`; those not given stay missing. The first
// `required` must be given. invalid: too many, unknown or twice.
Status bind_arguments(std::string_view callee, const Arguments& arguments, std::span<const std::string_view> names,
                      std::size_t required, std::span<Value> out);

// The same, into a fixed set: `auto [a, b] = TRY(bind<2>("replace", arguments, {"old", "new"}, 2));`
template <std::size_t N>
Result<std::array<Value, N>> bind(std::string_view callee, const Arguments& arguments,
                                  const std::array<std::string_view, N>& names, std::size_t required) {
  std::array<Value, N> out;
  TRY(bind_arguments(callee, arguments, names, required, out));
  return out;
}

}  // namespace ashlar::text::jinja
