// Any bytes as a model file: an error, or a file whose every view lies inside
// it. What passes as a model is loaded and runs a step.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <span>
#include <vector>

#include "models/loader.h"

namespace {

using namespace ashlar;
using namespace ashlar::models;

std::uint64_t g_sum;

void touch(std::span<const std::byte> bytes) {
  for (const std::byte b : bytes) g_sum += static_cast<std::uint64_t>(b);
}

void walk(const gguf::Value& value) {
  if (value.type != gguf::ValueType::array) {
    g_sum += static_cast<std::uint64_t>(value.integer().value_or(0)) + value.string().value_or("").size();
    return touch(value.bytes);
  }
  std::uint64_t count = 0;
  gguf::Value element;
  for (gguf::Elements elements(value); elements.next(element); ++count) walk(element);
  if (count != value.count) std::abort();
}

void run_a_step(Model& model) {
  auto kv = model.make_kv_store(1, KvType::f16);
  if (!kv) return;
  const std::int32_t tokens[] = {0, model.shape().vocabulary - 1};
  const int blocks[] = {0}, rows[] = {1};
  const Step::Sequence sequence{.first_row = 0, .rows = 2, .first_position = 0, .blocks = blocks};
  std::vector<float> logits(static_cast<std::size_t>(model.shape().vocabulary));
  model.forward({tokens, {&sequence, 1}, rows, logits}, **kv);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  static ThreadPool pool(1);
  const auto bytes = std::as_bytes(std::span(data, size));
  auto file = gguf::File::in_memory({bytes.begin(), bytes.end()}, "fuzz");
  if (!file) return 0;
  for (const gguf::Key& key : file->keys()) walk(key.value);
  for (const gguf::Tensor& tensor : file->tensors()) touch(tensor.data);
  const auto loaded = load(std::move(*file), {.max_rows = 2}, pool);
  if (loaded && loaded->model) run_a_step(*loaded->model);
  return 0;
}
