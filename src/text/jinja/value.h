// The values of a template while it renders: Python's, as Jinja sees them.
//
// A Value is a small tagged word: none, a number, or a counted reference to an
// Object. Counting is not atomic: values belong to one rendering and its thread.
// Strings, lists and dicts never change once made (Hugging Face's sandbox allows
// no mutation); namespaces, loops and scopes do, and are swept at the end of the
// rendering because only they can form cycles.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/result.h"

namespace ashlar::text::jinja {

class Runtime;
class Value;
using Int = __int128;  // Python's integers are unbounded; beyond 128 bits we refuse

enum class Kind : std::uint8_t {
  missing,  // a scope's slot that holds nothing; never seen by a template
  undefined,
  none,
  boolean,
  integer,
  floating,
  string,
  list,
  tuple,
  dict,
  view,  // dict.keys(), .values(), .items()
  range,
  iterator,  // generators and other things that are walked once
  space,     // namespace()
  function,  // built-in functions and bound methods
  macro,
  loop,
  cycler,
  joiner,
};

class Object {
 public:
  virtual ~Object() = default;
  Object(const Object&) = delete;
  Object& operator=(const Object&) = delete;

  // How deep values nest below and including this one; bounded by the runtime.
  int depth = 1;

 protected:
  Object() = default;

 private:
  template <class T>
  friend class Ref;
  friend class Value;
  void retain() { ++count_; }
  void release() {
    if (--count_ == 0) destroy(this);
  }
  // Deletes without recursion, however long the chain of references is.
  static void destroy(Object* object);

  std::uint32_t count_ = 0;
};

template <class T>
class Ref {
 public:
  Ref() = default;
  explicit Ref(T* object) : object_(object) {
    if (object_) object_->retain();
  }
  Ref(const Ref& other) : Ref(other.object_) {}
  Ref(Ref&& other) noexcept : object_(std::exchange(other.object_, nullptr)) {}
  Ref& operator=(Ref other) noexcept {
    std::swap(object_, other.object_);
    return *this;
  }
  ~Ref() {
    if (object_) object_->release();
  }
  T* get() const { return object_; }
  T* operator->() const { return object_; }
  T& operator*() const { return *object_; }
  explicit operator bool() const { return object_ != nullptr; }

 private:
  T* object_ = nullptr;
};

class Value {
 public:
  Value() = default;  // missing
  Value(Kind kind, Object* object) : kind_(kind) {
    data_.object = object;
    object->retain();
  }
  Value(const Value& other) : kind_(other.kind_), data_(other.data_) {
    if (counted()) data_.object->retain();
  }
  Value(Value&& other) noexcept : kind_(std::exchange(other.kind_, Kind::missing)), data_(other.data_) {}
  Value& operator=(Value other) noexcept {
    std::swap(kind_, other.kind_);
    std::swap(data_, other.data_);
    return *this;
  }
  ~Value() {
    if (counted()) data_.object->release();
  }

  static Value none() { return Value(Kind::none); }
  static Value boolean(bool value) {
    Value v(Kind::boolean);
    v.data_.integer = value;
    return v;
  }
  static Value integer(Int value) {
    Value v(Kind::integer);
    v.data_.integer = value;
    return v;
  }
  static Value floating(double value) {
    Value v(Kind::floating);
    v.data_.floating = value;
    return v;
  }

  Kind kind() const { return kind_; }
  bool is(Kind kind) const { return kind_ == kind; }
  bool is_string() const { return kind_ == Kind::string; }
  bool is_undefined() const { return kind_ == Kind::undefined; }
  bool is_none() const { return kind_ == Kind::none; }
  bool is_integral() const { return kind_ == Kind::integer || kind_ == Kind::boolean; }
  bool is_number() const { return is_integral() || kind_ == Kind::floating; }
  bool is_sequence() const { return kind_ == Kind::list || kind_ == Kind::tuple; }

  bool as_bool() const { return data_.integer != 0; }
  Int as_integer() const { return data_.integer; }  // booleans too
  double as_double() const { return kind_ == Kind::floating ? data_.floating : static_cast<double>(data_.integer); }

  // The caller has asked kind(); `T` is the matching class below.
  template <class T>
  T& as() const {
    return static_cast<T&>(*data_.object);
  }
  Object* object() const { return counted() ? data_.object : nullptr; }
  int depth() const { return counted() ? data_.object->depth : 0; }
  std::string_view text() const;  // of a string

  // Python's `is`.
  bool same(const Value& other) const;

 private:
  explicit Value(Kind kind) : kind_(kind) {}
  bool counted() const { return kind_ >= Kind::string || kind_ == Kind::undefined; }

  Kind kind_ = Kind::missing;
  union {
    Int integer;
    double floating;
    Object* object;
  } data_{.integer = 0};
};

struct String : Object {
  String(std::string text_in, bool markup_in) : text(std::move(text_in)), markup(markup_in) {}
  // How many code points; counted once.
  std::size_t points();
  bool ascii() { return points() == text.size(); }

  std::string text;  // valid UTF-8
  bool markup;       // Python's Markup: text known to be safe HTML

 private:
  std::ptrdiff_t points_ = -1;
};

struct List : Object {  // and tuples
  explicit List(std::vector<Value> items_in) : items(std::move(items_in)) {}
  std::vector<Value> items;
  bool group = false;  // groupby's named tuple: .grouper and .list
};

// Insertion order kept; found by hash once it is worth it.
struct Dict : Object {
  struct Entry {
    Value key, value;
    std::size_t hash;
  };
  std::vector<Entry> entries;

  // The caller hashes (operate.h) and pays; -1: none.
  std::ptrdiff_t find(const Value& key, std::size_t hash) const;
  // For the commonest key of all.
  std::ptrdiff_t find(std::string_view key) const;
  void set(Value key, std::size_t hash, Value value);

 private:
  template <class Same>
  std::ptrdiff_t locate(std::size_t hash, Same&& same) const;
  void index(std::size_t entry);
  std::vector<std::uint32_t> table_;  // open addressing, entry + 1; empty while small
};

struct View : Object {
  enum class Of : std::uint8_t { keys, values, items };
  View(Ref<Dict> dict_in, Of of_in) : dict(std::move(dict_in)), of(of_in) {}
  Ref<Dict> dict;
  Of of;
};

struct Range : Object {
  Range(Int start_in, Int stop_in, Int step_in) : start(start_in), stop(stop_in), step(step_in) {}
  std::int64_t length() const;  // at most the sandbox's 100,000
  Int at(std::int64_t index) const { return start + index * step; }
  Int start, stop, step;
};

// What a name, attribute or item gives when there is none. Printing it gives
// nothing; nearly all else is an error that says what was missing.
struct Undefined : Object {
  std::string hint;        // the whole sentence, if set
  std::string_view owner;  // the type that lacked it; empty: it was a plain name
  Value name;              // what was asked for
  std::string message(Runtime& runtime) const;
};

// A thing that is walked once.
class Iterator : public Object {
 public:
  // False at the end.
  virtual Result<bool> next(Runtime& runtime, Value& out) = 0;
  virtual std::string_view type_name() const { return "generator"; }
  // As print shows it; Python adds an address, which no template can rely on.
  virtual std::string_view label() const { return "generator object"; }
};

// The arguments of a call.
struct Arguments {
  std::vector<Value> positional;
  std::vector<std::pair<std::string, Value>> named;
};

struct Function : Object {
  using Native = Result<Value> (*)(Runtime& runtime, const Value& self, Arguments& arguments);
  Function(std::string_view name_in, Native native_in, Value self_in)
      : name(name_in), native(native_in), self(std::move(self_in)) {}
  std::string_view name;  // static storage
  Native native;
  Value self;  // missing: a plain function
};

// Objects that change, and so can form cycles. The rendering keeps a list of
// the living and empties them when it ends.
class Mutable : public Object {
 public:
  using Registry = std::vector<Mutable*>;
  explicit Mutable(Registry& registry) : registry_(registry), place_(registry.size()) { registry.push_back(this); }
  ~Mutable() override {
    registry_[place_] = registry_.back();
    registry_[place_]->place_ = place_;
    registry_.pop_back();
  }
  // Drops every reference it holds.
  virtual void clear() = 0;
  static void clear_all(Registry& registry);

 private:
  Registry& registry_;
  std::size_t place_;
};

struct Space : Mutable {  // namespace()
  Space(Registry& registry, Ref<Dict> attributes_in) : Mutable(registry), attributes(std::move(attributes_in)) {}
  void clear() override { attributes = Ref<Dict>(new Dict); }
  Ref<Dict> attributes;  // owned by this space alone: the one dict that changes
};

struct Cycler : Object {
  std::vector<Value> items;
  std::size_t position = 0;
};

struct Joiner : Object {
  Value separator;
  bool used = false;
};

// Python's name of the type: "str", "dict", "Namespace".
std::string_view type_name(const Value& value);
// As Jinja names it in errors: "str object", "jinja2.utils.Namespace object", "None".
std::string_view object_type_name(const Value& value);

}  // namespace ashlar::text::jinja
