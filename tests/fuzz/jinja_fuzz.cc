// A chat template from bytes: the first line, if it is JSON, is the context; the
// rest is the source. Small limits, so that what is slow or large shows.
#include <cstddef>
#include <cstdint>
#include <string_view>

#include "base/json_full.h"
#include "text/chat_template.h"

namespace {

ashlar::Json usual_context() {
  return ashlar::Json::parse(R"({
    "messages": [{"role": "user", "content": "hi é"}, {"role": "assistant", "content": "yo", "tool_calls": [{"a": 1}]}],
    "bos_token": "<s>", "tools": null, "add_generation_prompt": true, "n": 3, "x": 2.5, "d": {"k": [1, "a", null]}})");
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  static const ashlar::Json kUsual = usual_context();
  constexpr ashlar::text::TemplateLimits kLimits{
      .source_bytes = 1 << 16, .depth = 32, .steps = 20'000, .output_bytes = 1 << 16, .value_bytes = 1 << 20};
  std::string_view text(reinterpret_cast<const char*>(data), size);
  ashlar::Json context;
  if (const auto end = text.find('\n'); text.starts_with('{') && end != text.npos) {
    if (auto parsed = ashlar::parse_json(text.substr(0, end)); parsed && parsed->is_object()) {
      context = *std::move(parsed);
      text.remove_prefix(end + 1);
    }
  }
  const auto parsed = ashlar::text::ChatTemplate::parse(std::string(text), kLimits);
  if (!parsed) return 0;
  const auto rendered = (*parsed)->render(context.is_object() ? context : kUsual, 1'783'000'000);
  if (!rendered && rendered.error().message.empty()) __builtin_trap();
  return 0;
}
