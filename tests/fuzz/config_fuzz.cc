// Any bytes as config.json and, behind a line "%", generation_config.json: an error, or a model whose sizes hold what
// the header promises.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string_view>

#include "models/formats/hf_config.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace ashlar::models;
  const std::string_view bytes(reinterpret_cast<const char*>(data), size);
  const std::size_t cut = bytes.find("\n%\n");
  const auto found = read_hf_config(bytes.substr(0, cut), cut == bytes.npos ? "" : bytes.substr(cut + 3), "fuzz");
  if (!found) {
    if (found.error().message.empty()) std::abort();
    return 0;
  }
  const Shape& s = found->config.shape;
  const bool holds = s.layers >= 1 && s.layers <= kMostLayers && s.heads >= 1 && s.heads % s.kv_heads == 0 &&
                     s.head_dim >= 8 && s.head_dim <= kMostHeadDim && s.head_dim % 8 == 0 && s.context >= 1 &&
                     found->config.rope.dims >= 2 && found->config.rope.dims <= s.head_dim &&
                     found->config.rms_epsilon > 0;
  if (!holds) std::abort();
  for (const std::int32_t id : found->eos)
    if (id < 0 || id >= s.vocabulary) std::abort();
  return 0;
}
