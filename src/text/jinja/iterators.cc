#include "text/jinja/iterators.h"

#include <fmt/format.h>

#include <algorithm>

#include "base/utf8.h"
#include "text/jinja/evaluate.h"
#include "text/jinja/operate.h"

namespace ashlar::text::jinja {

Result<bool> ListIterator::next(Runtime& runtime, Value& out) {
  TRY(runtime.budget.spend(1));
  if (at_ == items_.size()) return false;
  out = items_[at_++];
  return true;
}

Result<bool> Generator::next(Runtime& runtime, Value& out) {
  TRY(runtime.budget.spend(1));
  if (finished_) return false;
  const Descent descent(runtime);
  if (!descent.allowed()) return runtime.budget.too_deep();
  auto more = step_(runtime, out);
  finished_ = !more || !*more;
  return more;
}

namespace {

// Over a list or tuple, which it keeps alive.
class SequenceIterator : public Iterator {
 public:
  explicit SequenceIterator(Value sequence) : sequence_(std::move(sequence)) {}
  Result<bool> next(Runtime& runtime, Value& out) override {
    TRY(runtime.budget.spend(1));
    const auto& items = sequence_.as<List>().items;
    if (at_ == items.size()) return false;
    out = items[at_++];
    return true;
  }

 private:
  Value sequence_;
  std::size_t at_ = 0;
};

class DictIterator : public Iterator {
 public:
  DictIterator(Ref<Dict> dict, View::Of of, bool backwards) : dict_(std::move(dict)), of_(of), backwards_(backwards) {}
  Result<bool> next(Runtime& runtime, Value& out) override {
    TRY(runtime.budget.spend(1));
    const std::size_t size = dict_->entries.size();
    if (at_ == size) return false;
    const auto& entry = dict_->entries[backwards_ ? size - 1 - at_ : at_];
    ++at_;
    if (of_ == View::Of::keys)
      out = entry.key;
    else if (of_ == View::Of::values)
      out = entry.value;
    else
      out = TRY(runtime.tuple({entry.key, entry.value}));
    return true;
  }
  std::string_view type_name() const override { return backwards_ ? "dict_reversekeyiterator" : "dict_keyiterator"; }
  std::string_view label() const override { return "dict_reversekeyiterator object"; }

 private:
  Ref<Dict> dict_;
  View::Of of_;
  bool backwards_;
  std::size_t at_ = 0;
};

class TextIterator : public Iterator {
 public:
  explicit TextIterator(Value string) : string_(std::move(string)) {}
  Result<bool> next(Runtime& runtime, Value& out) override {
    TRY(runtime.budget.spend(1));
    const std::string_view text = string_.text().substr(at_);
    if (text.empty()) return false;
    const auto step = utf8::decode(text);
    out = TRY(runtime.string(std::string(text.substr(0, step.bytes))));
    at_ += step.bytes;
    return true;
  }

 private:
  Value string_;
  std::size_t at_ = 0;
};

class RangeIterator : public Iterator {
 public:
  RangeIterator(const Range& range, bool backwards)
      : range_(range.start, range.stop, range.step), left_(range.length()), backwards_(backwards) {}
  Result<bool> next(Runtime& runtime, Value& out) override {
    TRY(runtime.budget.spend(1));
    if (left_ == 0) return false;
    --left_;
    out = Value::integer(range_.at(backwards_ ? left_ : range_.length() - 1 - left_));
    return true;
  }
  std::string_view type_name() const override { return "range_iterator"; }
  std::string_view label() const override { return "range_iterator object"; }

 private:
  Range range_;
  std::int64_t left_;
  bool backwards_;
};

class ReverseIterator : public Iterator {
 public:
  explicit ReverseIterator(Value sequence) : sequence_(std::move(sequence)), left_(sequence_.as<List>().items.size()) {}
  Result<bool> next(Runtime& runtime, Value& out) override {
    TRY(runtime.budget.spend(1));
    if (left_ == 0) return false;
    out = sequence_.as<List>().items[--left_];
    return true;
  }
  std::string_view type_name() const override { return sequence_.is(Kind::list) ? "list_reverseiterator" : "reversed"; }
  std::string_view label() const override {
    return sequence_.is(Kind::list) ? "list_reverseiterator object" : "reversed object";
  }

 private:
  Value sequence_;
  std::size_t left_;
};

}  // namespace

Result<Ref<Iterator>> iterate(Runtime& runtime, const Value& value) {
  switch (value.kind()) {
    case Kind::list:
    case Kind::tuple:
      return Ref<Iterator>(new SequenceIterator(value));
    case Kind::string:
      return Ref<Iterator>(new TextIterator(value));
    case Kind::dict:
      return Ref<Iterator>(new DictIterator(Ref<Dict>(&value.as<Dict>()), View::Of::keys, false));
    case Kind::view: {
      const auto& view = value.as<View>();
      return Ref<Iterator>(new DictIterator(view.dict, view.of, false));
    }
    case Kind::range:
      return Ref<Iterator>(new RangeIterator(value.as<Range>(), false));
    case Kind::iterator:
      return Ref<Iterator>(&value.as<Iterator>());
    case Kind::undefined:
      return Ref<Iterator>(new ListIterator({}));
    case Kind::loop: {
      // A loop walked by its own body gives (item, loop) and moves on.
      Ref<Loop> loop(&value.as<Loop>());
      return Ref<Iterator>(new Generator("LoopContext", [loop](Runtime& rt, Value& out) -> Result<bool> {
        Value item;
        if (!TRY(loop->next(rt, item))) return false;
        out = TRY(rt.tuple({item, Value(Kind::loop, loop.get())}));
        return true;
      }));
    }
    default:
      break;
  }
  (void)runtime;
  return template_error(fmt::format("'{}' object is not iterable", type_name(value)));
}

Result<Value> reversed(Runtime& runtime, const Value& value) {
  Ref<Iterator> made;
  switch (value.kind()) {
    case Kind::list:
    case Kind::tuple:
      made = Ref<Iterator>(new ReverseIterator(value));
      break;
    case Kind::dict:
      made = Ref<Iterator>(new DictIterator(Ref<Dict>(&value.as<Dict>()), View::Of::keys, true));
      break;
    case Kind::view:
      made = Ref<Iterator>(new DictIterator(value.as<View>().dict, value.as<View>().of, true));
      break;
    case Kind::range:
      made = Ref<Iterator>(new RangeIterator(value.as<Range>(), true));
      break;
    case Kind::undefined:
      made = Ref<Iterator>(new ListIterator({}));
      break;
    default:
      return template_error(fmt::format("'{}' object is not reversible", type_name(value)));
  }
  return runtime.iterator(std::move(made), value.depth());
}

}  // namespace ashlar::text::jinja
