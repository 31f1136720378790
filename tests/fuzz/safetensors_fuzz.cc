// Any bytes as a safetensors file, as an index of shards and as config.json: an
// error, or tensors that lie inside the file, cover it, and are as large as their
// shapes say; or sizes and a rope that can be built.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <span>
#include <string_view>

#include "models/formats/hf_config.h"
#include "models/formats/safetensors.h"

namespace {

using namespace ashlar;
using namespace ashlar::models;

std::uint64_t g_sum;

void require(bool holds) {
  if (!holds) std::abort();
}

void as_file(std::span<const std::byte> bytes) {
  const auto part = safetensors::read_part(bytes, "fuzz");
  if (!part) return require(!part.error().message.empty());
  std::uint64_t header = 0, covered = sizeof header;
  std::memcpy(&header, bytes.data(), sizeof header);
  for (const safetensors::Tensor& tensor : part->tensors) {
    std::int64_t elements = 1;
    for (const std::int64_t dim : tensor.shape) elements *= dim;
    require(elements == tensor.elements());
    for (const std::byte b : tensor.data) g_sum += static_cast<std::uint64_t>(b);
    covered += tensor.data.size();
  }
  require(covered + header == bytes.size());
}

void as_index(std::string_view text) {
  const auto index = safetensors::read_index(text, "fuzz");
  if (!index) return require(!index.error().message.empty());
  for (const auto& entry : index->entries)
    require(entry.shard >= 0 && static_cast<std::size_t>(entry.shard) < index->shards.size());
  for (const std::string& shard : index->shards) require(shard.find('/') == shard.npos && !shard.starts_with('.'));
}

void as_config(std::string_view text) {
  const auto found = read_hf_config(text, text, "fuzz");
  if (!found) return require(!found.error().message.empty());
  const Shape& s = found->config.shape;
  require(s.layers > 0 && s.width > 0 && s.vocabulary > 0 && s.heads % s.kv_heads == 0 && s.head_dim % 8 == 0);
  make_rope(found->config.rope, found->rope_factors);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  as_file(std::as_bytes(std::span(data, size)));
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  as_index(text);
  as_config(text);
  return 0;
}
