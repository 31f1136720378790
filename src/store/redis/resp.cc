#include "store/redis/resp.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <iterator>
#include <utility>

namespace ashlar::store::resp {
namespace {

constexpr std::size_t kLongestLine = 64 << 10;

Error broken(std::string_view what) { return {Code::corrupt, fmt::format("Redis answered with {}.", what)}; }
Error beyond(std::string_view what) { return {Code::too_large, fmt::format("Redis answered with {}.", what)}; }

Result<std::int64_t> number(std::string_view text) {
  if (text.starts_with('+')) text.remove_prefix(1);
  std::int64_t value = 0;
  const auto [end, failed] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (failed != std::errc{} || end != text.data() + text.size()) return broken("something that should be a number");
  return value;
}

}  // namespace

Status Reader::read(std::string_view bytes, FunctionRef<void(Value)> sink) {
  while (!bytes.empty()) {
    if (in_bulk_) {
      const std::size_t whole_size = bulk_size_ + 2;
      const std::size_t piece = std::min(bytes.size(), whole_size - bulk_.text.size());
      bulk_.text.append(bytes.substr(0, piece));
      bytes.remove_prefix(piece);
      if (bulk_.text.size() < whole_size) return {};
      if (!bulk_.text.ends_with("\r\n")) return broken("a text longer than it said");
      bulk_.text.resize(bulk_size_);
      in_bulk_ = false;
      if (verbatim_) {
        if (bulk_size_ < 4 || bulk_.text[3] != ':') return broken("a text without its format");
        bulk_.text.erase(0, 4);
      }
      whole(std::exchange(bulk_, {}), sink);
      continue;
    }
    const std::size_t end = bytes.find('\n');
    const std::size_t piece = end == bytes.npos ? bytes.size() : end + 1;
    if (partial_.size() + piece > kLongestLine) return beyond("a line that does not end");
    partial_.append(bytes.substr(0, piece));
    bytes.remove_prefix(piece);
    if (end == bytes.npos && !partial_.ends_with('\n')) return {};
    if (!partial_.ends_with("\r\n")) return broken("a line that does not end in CR LF");
    bytes_ += partial_.size();
    if (bytes_ > limits_.bytes) return beyond(fmt::format("more than {} bytes", limits_.bytes));
    const std::string text = std::exchange(partial_, {});
    TRY(line(std::string_view(text).substr(0, text.size() - 2), sink));
  }
  return {};
}

Status Reader::line(std::string_view text, FunctionRef<void(Value)> sink) {
  if (text.empty()) return broken("an empty line");
  const char type = text.front();
  text.remove_prefix(1);
  Value value;
  switch (type) {
    case '+':
    case ',':
    case '(':
      value = {.kind = Value::Kind::string, .text = std::string(text)};
      break;
    case '-':
      value = {.kind = Value::Kind::error, .text = std::string(text)};
      break;
    case ':':
      value = {.kind = Value::Kind::integer, .integer = TRY(number(text))};
      break;
    case '_':
      if (!text.empty()) return broken("a null with something in it");
      break;
    case '#':
      if (text != "t" && text != "f") return broken("neither true nor false");
      value = {.kind = Value::Kind::integer, .integer = text == "t"};
      break;
    case '$':
    case '=':
      verbatim_ = type == '=';
      return bulk(Value::Kind::string, text, sink);
    case '!':
      verbatim_ = false;
      return bulk(Value::Kind::error, text, sink);
    case '*':
    case '~':
      return open(Value::Kind::array, text, 1, false, sink);
    case '%':
      return open(Value::Kind::array, text, 2, false, sink);
    case '|':
      return open(Value::Kind::array, text, 2, true, sink);
    case '>':
      return open(Value::Kind::push, text, 1, false, sink);
    default:
      return broken("bytes that are not its protocol");
  }
  if (++items_ > limits_.items) return beyond(fmt::format("more than {} values", limits_.items));
  whole(std::move(value), sink);
  return {};
}

Status Reader::bulk(Value::Kind kind, std::string_view size, FunctionRef<void(Value)> sink) {
  const std::int64_t count = TRY(number(size));
  if (++items_ > limits_.items) return beyond(fmt::format("more than {} values", limits_.items));
  if (count == -1) {
    whole({}, sink);
    return {};
  }
  if (count < 0) return broken("a text of negative length");
  if (static_cast<std::uint64_t>(count) > limits_.bytes - std::min(bytes_, limits_.bytes))
    return beyond(fmt::format("more than {} bytes", limits_.bytes));
  bulk_size_ = static_cast<std::size_t>(count);
  bytes_ += bulk_size_ + 2;
  bulk_ = {.kind = kind};
  in_bulk_ = true;
  return {};
}

Status Reader::open(Value::Kind kind, std::string_view count, int each, bool dropped, FunctionRef<void(Value)> sink) {
  const std::int64_t items = TRY(number(count));
  if (items < -1) return broken("a list of negative length");
  if (++items_ > limits_.items || items > static_cast<std::int64_t>(limits_.items))
    return beyond(fmt::format("more than {} values", limits_.items));
  if (kind == Value::Kind::push && !open_.empty()) return broken("a message within a value");
  if (open_.size() >= limits_.depth) return beyond(fmt::format("lists more than {} deep", limits_.depth));
  if (items == -1) {
    whole({}, sink);
    return {};
  }
  if (items == 0) {
    if (!dropped) whole({.kind = kind}, sink);
    return {};
  }
  open_.push_back({.value = {.kind = kind}, .left = static_cast<std::size_t>(items * each), .dropped = dropped});
  return {};
}

void Reader::whole(Value value, FunctionRef<void(Value)> sink) {
  while (!open_.empty()) {
    Open& innermost = open_.back();
    innermost.value.items.push_back(std::move(value));
    if (--innermost.left > 0) return;
    const bool dropped = innermost.dropped;
    value = std::move(innermost.value);
    open_.pop_back();
    if (dropped) return;
  }
  bytes_ = items_ = 0;
  sink(std::move(value));
}

std::string command(std::span<const std::string> words) {
  std::string out = fmt::format("*{}\r\n", words.size());
  for (const std::string& word : words) {
    fmt::format_to(std::back_inserter(out), "${}\r\n", word.size());
    out.append(word).append("\r\n");
  }
  return out;
}

}  // namespace ashlar::store::resp
