// Chat templates: the Jinja dialect that Hugging Face model files carry.
#pragma once

#include <cstddef>
#include <ctime>
#include <memory>
#include <string>
#include <string_view>

#include "base/json.h"
#include "base/result.h"

namespace ashlar::text {

// A template is as hostile as any other file. Going over a limit is an error of
// rendering (too_large), never a hang or an exhausted memory.
struct TemplateLimits {
  std::size_t source_bytes = 1 << 20;
  int depth = 128;                       // of nesting: syntax, calls, values
  std::size_t steps = 10'000'000;        // evaluated nodes
  std::size_t output_bytes = 64 << 20;
  std::size_t value_bytes = 256 << 20;   // built in all: strings, lists, dicts
};

// Immutable; any thread may render.
class ChatTemplate {
 public:
  // invalid: a syntax error, with its line.
  static Result<std::shared_ptr<const ChatTemplate>> parse(std::string source, TemplateLimits limits = {});
  virtual ~ChatTemplate() = default;

  // `context`: an object whose members are the template's variables (messages,
  // tools, add_generation_prompt, bos_token, ...). `now`: what strftime_now
  // shows, in local time. invalid: the template refused (raise_exception) or
  // failed, with its sentence; too_large: a limit.
  virtual Result<std::string> render(const Json& context, std::time_t now) const = 0;

  virtual const std::string& source() const = 0;
};

}  // namespace ashlar::text
