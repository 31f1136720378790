// Any bytes as a model file: an error or a file whose every view lies inside it.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <span>

#include "models/formats/gguf.h"

namespace {

using namespace ashlar::models;

std::uint64_t g_sum;

void walk(const gguf::Value& value, int depth) {
  if (value.type != gguf::ValueType::array) {
    g_sum += static_cast<std::uint64_t>(value.integer().value_or(0)) + value.string().value_or("").size();
    for (const std::byte b : value.bytes) g_sum += static_cast<std::uint64_t>(b);
    return;
  }
  std::uint64_t count = 0;
  gguf::Value element;
  for (gguf::Elements elements(value); elements.next(element); ++count) walk(element, depth + 1);
  if (count != value.count) std::abort();
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const auto part = gguf::read_part(std::as_bytes(std::span(data, size)), "fuzz");
  if (!part) return 0;
  for (const gguf::Key& key : part->keys) walk(key.value, 0);
  for (const gguf::Tensor& tensor : part->tensors)
    for (const std::byte b : tensor.data) g_sum += static_cast<std::uint64_t>(b);
  return 0;
}
