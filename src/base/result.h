// What a function returns when the world may be wrong: a value, or an Error that
// says what was wrong, where, and what was expected.
#pragma once

#include <cstdlib>
#include <expected>
#include <string>
#include <string_view>
#include <utility>

namespace ashlar {

// The kinds of failure. api/ maps each to one HTTP status in one table.
enum class Code {
  invalid,       // the caller's input is wrong
  not_found,     // no such model, file, route
  unauthorized,  // no key, or a wrong one
  forbidden,     // a key that may not do this
  too_large,     // over a stated limit
  exhausted,     // a budget is used up: try again later
  unavailable,   // starting, draining or overloaded
  deadline,      // not done in the time given
  cancelled,     // the caller left
  unsupported,   // well-formed, but not something this build or model does
  corrupt,       // a file or a peer broke its format
  io,            // the operating system refused
  internal,      // our mistake
};

// "invalid", "not_found", ...
std::string_view name(Code code);

struct [[nodiscard]] Error {
  Code code = Code::internal;
  std::string message;  // one sentence for whoever must act on it

  // So that a function may simply `return Error{...}`.
  template <class T>
  operator std::expected<T, Error>() const& {
    return std::unexpected(*this);
  }
  template <class T>
  operator std::expected<T, Error>() && {
    return std::unexpected(std::move(*this));
  }
};

template <class T>
using Result = std::expected<T, Error>;
using Status = Result<void>;

// Stops the process: the code is wrong. Never for what a user or a file can cause.
[[noreturn]] void check_failed(const char* condition, const char* why, const char* file, int line);

}  // namespace ashlar

// `auto value = TRY(expression);` gives the value or returns the error to our caller.
#define TRY(expression)                                                    \
  ({                                                                       \
    auto try_result_ = (expression);                                       \
    if (!try_result_) [[unlikely]]                                         \
      return std::unexpected(std::move(try_result_).error());              \
    *std::move(try_result_);                                               \
  })

#define CHECK(condition, why)                                              \
  do {                                                                     \
    if (!(condition)) [[unlikely]]                                         \
      ::ashlar::check_failed(#condition, why, __FILE__, __LINE__);         \
  } while (false)

#ifdef NDEBUG
#define DCHECK(condition, why) \
  do {                         \
  } while (false)
#else
#define DCHECK(condition, why) CHECK(condition, why)
#endif
