#include "engine/generator.h"

namespace ashlar::engine {

std::string_view name(FinishReason reason) {
  switch (reason) {
    case FinishReason::stop:
      return "stop";
    case FinishReason::length:
      return "length";
    case FinishReason::tool_calls:
      return "tool_calls";
    case FinishReason::content_filter:
      return "content_filter";
    case FinishReason::abort:
      return "abort";
  }
  return "stop";
}

}  // namespace ashlar::engine
