#include "gateway/upstreams/chunk.h"

#include <array>
#include <boost/json/basic_parser_impl.hpp>
#include <boost/json/src.hpp>  // the library: compiled here alone
#include <cstdint>
#include <limits>
#include <utility>

namespace ashlar::gateway {
namespace {

using boost::json::error_code;

// What the parser calls. Each call returns false, which ends the parsing, where the event says more than a Chunk holds;
// what a tree's reader would pass over is passed over here.
class Handler {
 public:
  constexpr static std::size_t max_object_size = 4096;
  constexpr static std::size_t max_array_size = 4096;
  constexpr static std::size_t max_key_size = 1 << 20;
  constexpr static std::size_t max_string_size = 64 << 20;

  Chunk take() {
    if (chunk.in_delta) chunk.text = std::move(content_);
    chunk.thought = !thoughts_[0].empty() ? std::move(thoughts_[0]) : std::move(thoughts_[1]);
    return std::move(chunk);
  }

  bool on_document_begin(error_code& ec) { return fine(true, ec); }
  bool on_document_end(error_code& ec) { return fine(true, ec); }
  bool on_object_begin(error_code& ec) { return fine(skipped_ > 0 ? pass_over() : enter_object(), ec); }
  bool on_array_begin(error_code& ec) { return fine(skipped_ > 0 ? pass_over() : enter_array(), ec); }
  bool on_object_end(std::size_t, error_code& ec) { return fine(leave(), ec); }
  bool on_array_end(std::size_t, error_code& ec) { return fine(leave(), ec); }

  bool on_key_part(std::string_view part, std::size_t, error_code& ec) {
    if (skipped_ == 0) next_key_.append(part);
    return fine(true, ec);
  }
  bool on_key(std::string_view part, std::size_t, error_code& ec) {
    if (skipped_ == 0) {
      if (next_key_.empty()) {
        key_ = key_of(part);
      } else {
        key_ = key_of(next_key_.append(part));
        next_key_.clear();
      }
    }
    return fine(true, ec);
  }
  bool on_string_part(std::string_view part, std::size_t, error_code& ec) {
    if (skipped_ == 0) value_.append(part);
    return fine(true, ec);
  }
  bool on_string(std::string_view part, std::size_t, error_code& ec) {
    if (skipped_ > 0) return fine(true, ec);
    value_.append(part);
    const bool taken = string();
    value_.clear();
    return fine(taken, ec);
  }
  bool on_number_part(std::string_view, error_code& ec) { return fine(true, ec); }
  bool on_int64(std::int64_t value, std::string_view, error_code& ec) {
    return fine(number(static_cast<double>(value), true), ec);
  }
  bool on_uint64(std::uint64_t value, std::string_view, error_code& ec) {
    return fine(number(static_cast<double>(value), true), ec);
  }
  bool on_double(double value, std::string_view, error_code& ec) { return fine(number(value, false), ec); }
  bool on_bool(bool, error_code& ec) { return fine(skipped_ > 0 || plain(), ec); }
  bool on_null(error_code& ec) { return fine(skipped_ > 0 || null(), ec); }
  bool on_comment_part(std::string_view, error_code& ec) { return fine(false, ec); }
  bool on_comment(std::string_view, error_code& ec) { return fine(false, ec); }

  Chunk chunk;

 private:
  enum class In : std::uint8_t { document, root, choices, choice, delta, usage, prompt_details, completion_details };

  // The members that mean something, wherever they stand.
  enum class Key : std::uint8_t {
    other,
    error,
    delta,
    text,
    content,
    choices,
    usage,
    message,
    logprobs,
    prompt_tokens_details,
    prompt_tokens,
    completion_tokens,
    completion_tokens_details,
    finish_reason,
    stop_reason,
    reasoning,
    reasoning_content,
    role,
    index,
    cached_tokens,
    reasoning_tokens,
    prediction_tokens,  // accepted or rejected: whoever has some is read into a tree
    written_tokens,     // to a cache: the same
    filter_results,     // the same
  };
  static Key key_of(std::string_view name) {
    switch (name.size()) {
      case 4:
        return name == "text" ? Key::text : name == "role" ? Key::role : Key::other;
      case 5:
        return name == "error"   ? Key::error
               : name == "delta" ? Key::delta
               : name == "usage" ? Key::usage
               : name == "index" ? Key::index
                                 : Key::other;
      case 7:
        return name == "content"   ? Key::content
               : name == "choices" ? Key::choices
               : name == "message" ? Key::message
                                   : Key::other;
      case 8:
        return name == "logprobs" ? Key::logprobs : Key::other;
      case 9:
        return name == "reasoning" ? Key::reasoning : Key::other;
      case 11:
        return name == "stop_reason" ? Key::stop_reason : Key::other;
      case 13:
        return name == "prompt_tokens"   ? Key::prompt_tokens
               : name == "finish_reason" ? Key::finish_reason
               : name == "cached_tokens" ? Key::cached_tokens
                                         : Key::other;
      case 16:
        return name == "reasoning_tokens" ? Key::reasoning_tokens : Key::other;
      case 17:
        return name == "completion_tokens"   ? Key::completion_tokens
               : name == "reasoning_content" ? Key::reasoning_content
                                             : Key::other;
      case 18:
        return name == "cache_write_tokens" ? Key::written_tokens : Key::other;
      case 21:
        return name == "prompt_tokens_details"   ? Key::prompt_tokens_details
               : name == "cache_creation_tokens" ? Key::written_tokens
               : name == "prompt_filter_results" ? Key::filter_results
                                                 : Key::other;
      case 22:
        return name == "content_filter_results" || name == "content_filter_offsets" ? Key::filter_results : Key::other;
      case 25:
        return name == "completion_tokens_details" ? Key::completion_tokens_details : Key::other;
      case 26:
        return name == "accepted_prediction_tokens" || name == "rejected_prediction_tokens" ? Key::prediction_tokens
                                                                                            : Key::other;
      case 27:
        return name == "cache_creation_input_tokens" ? Key::written_tokens : Key::other;
      default:
        return Key::other;
    }
  }
  // Of a choice's object or list: nobody misses it.
  bool may_be_missed() const {
    return key_ != Key::delta && key_ != Key::message && key_ != Key::logprobs && key_ != Key::text &&
           key_ != Key::filter_results;
  }

  static bool fine(bool taken, error_code& ec) {
    if (!taken) ec = boost::json::error::syntax;
    return taken;
  }
  In in() const { return open_[depth_]; }
  bool enter(In what) {
    open_[++depth_] = what;
    return true;
  }
  bool pass_over() {
    ++skipped_;
    return true;
  }
  bool leave() {
    if (skipped_ > 0)
      --skipped_;
    else
      --depth_;
    return true;
  }

  bool enter_object() {
    switch (in()) {
      case In::document:
        return enter(In::root);
      case In::root:
        if (key_ == Key::usage) {
          chunk.usage.emplace();
          return enter(In::usage);
        }
        return key_ != Key::error && key_ != Key::choices && pass_over();
      case In::choices:
        if (chunk.choice) return false;
        chunk.choice = 0;
        return enter(In::choice);
      case In::choice:
        if (key_ == Key::delta && !std::exchange(chunk.in_delta, true)) return enter(In::delta);
        return may_be_missed() && pass_over();
      case In::usage:
        if (key_ == Key::prompt_tokens_details) return enter(In::prompt_details);
        if (key_ == Key::completion_tokens_details) return enter(In::completion_details);
        return pass_over();
      case In::prompt_details:
      case In::completion_details:
        return pass_over();
      case In::delta:
        break;
    }
    return false;
  }

  bool enter_array() {
    switch (in()) {
      case In::root:
        if (key_ == Key::choices) return !std::exchange(has_choices_, true) && enter(In::choices);
        return key_ != Key::error && key_ != Key::usage && key_ != Key::filter_results && pass_over();
      case In::choice:
        return may_be_missed() && pass_over();
      case In::usage:
      case In::prompt_details:
      case In::completion_details:
        return pass_over();
      case In::document:
      case In::choices:
      case In::delta:
        break;
    }
    return false;
  }

  // A value that is no text and no number.
  bool plain() const {
    switch (in()) {
      case In::document:
      case In::choices:
        return false;
      case In::root:
        return key_ != Key::error && key_ != Key::choices && key_ != Key::usage;
      case In::choice:
        return key_ != Key::delta && key_ != Key::message && key_ != Key::logprobs && key_ != Key::text;
      case In::delta:
        return false;
      case In::usage:
      case In::prompt_details:
      case In::completion_details:
        return true;
    }
    return false;
  }

  // Says nothing; of a name that stood there before, that it says nothing any more.
  bool null() {
    if (in() == In::document || in() == In::choices) return false;
    if (in() == In::root) {
      if (key_ == Key::usage) chunk.usage.reset();
      return key_ != Key::choices || !has_choices_;
    }
    if (in() == In::choice && (key_ == Key::text || key_ == Key::finish_reason)) return string();
    if (in() == In::choice) return key_ != Key::delta || !chunk.in_delta;
    return in() != In::delta || string();
  }

  bool string() {
    switch (in()) {
      case In::choice:
        if (key_ == Key::text) {
          chunk.text = value_;
          return true;
        }
        if (key_ == Key::finish_reason) {
          chunk.finish = value_;
          return true;
        }
        return key_ != Key::stop_reason && plain();
      case In::delta:
        if (key_ == Key::content) {
          content_ = value_;
          return true;
        }
        if (key_ == Key::reasoning_content || key_ == Key::reasoning) {
          thoughts_[key_ == Key::reasoning] = value_;
          return true;
        }
        return key_ == Key::role || value_.empty();
      default:
        return plain();
    }
  }

  bool number(double value, bool whole) {
    if (skipped_ > 0) return true;
    const bool is_count = value >= 0 && value <= std::numeric_limits<int>::max();
    const std::optional<int> count = is_count ? std::optional(static_cast<int>(value)) : std::nullopt;
    switch (in()) {
      case In::choice:
        if (key_ == Key::index) chunk.choice = count.value_or(0);
        return (key_ != Key::stop_reason || !whole) && plain();
      case In::usage:
        if (key_ == Key::prompt_tokens) chunk.usage->prompt = count;
        if (key_ == Key::completion_tokens) chunk.usage->completion = count;
        return key_ != Key::written_tokens || count == 0;
      case In::prompt_details:
        if (key_ == Key::cached_tokens) chunk.usage->cached = count;
        return key_ != Key::written_tokens || count == 0;
      case In::completion_details:
        if (key_ == Key::reasoning_tokens) chunk.usage->reasoning = count;
        return key_ != Key::prediction_tokens || count == 0;
      default:
        return plain();
    }
  }

  std::array<In, 8> open_{};  // from the document inwards, but for what is passed over
  std::size_t depth_ = 0;
  int skipped_ = 0;  // objects and arrays that are open and passed over
  bool has_choices_ = false;
  Key key_ = Key::other;
  std::string next_key_, value_;
  std::string content_, thoughts_[2];
};

}  // namespace

std::optional<Chunk> read_chunk(std::string_view event) {
  boost::json::basic_parser<Handler> parser{boost::json::parse_options()};
  error_code ec;
  const std::size_t read = parser.write_some(false, event.data(), event.size(), ec);
  if (ec || read != event.size() || !parser.done()) return std::nullopt;
  return parser.handler().take();
}

}  // namespace ashlar::gateway
