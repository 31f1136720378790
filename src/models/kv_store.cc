#include "models/kv_store.h"

#include <fmt/format.h>
#include <unistd.h>

#include <cstring>

namespace ashlar::models {
namespace {

static_assert(kBlockTokens == kernels::kKvBlock, "the kernels lay out blocks of this many positions");

constexpr std::size_t kValueBytes = 2;  // f16 and bf16

std::size_t layer_block_bytes(const Shape& s) {
  return static_cast<std::size_t>(s.kv_heads) * static_cast<std::size_t>(s.head_dim) * kBlockTokens * kValueBytes;
}

std::uint64_t physical_memory() {
  return static_cast<std::uint64_t>(::sysconf(_SC_PHYS_PAGES)) * static_cast<std::uint64_t>(::sysconf(_SC_PAGESIZE));
}

}  // namespace

Bytes BlockStore::block_bytes(const Shape& shape) {
  return {2 * layer_block_bytes(shape) * static_cast<std::size_t>(shape.layers)};
}

Result<std::unique_ptr<BlockStore>> BlockStore::create(const Shape& shape, int blocks, KvType type) {
  CHECK(blocks > 0, "a store has blocks");
  const std::uint64_t bytes = block_bytes(shape).count * static_cast<std::uint64_t>(blocks);
  // The system hands out addresses freely and finds out too late that it lacks the memory.
  if (bytes > physical_memory())
    return Error{Code::exhausted, fmt::format("{} blocks of keys and values need {}, but this machine has {} of memory",
                                              blocks, to_string(Bytes{bytes}), to_string(Bytes{physical_memory()}))};
  std::unique_ptr<BlockStore> store(new BlockStore());
  store->layers_ = shape.layers;
  store->kv_heads_ = shape.kv_heads;
  store->head_dim_ = shape.head_dim;
  store->blocks_ = blocks;
  store->type_ = type;
  store->block_bytes_ = layer_block_bytes(shape);
  store->memory_ = TRY(kernels::HugeMemory::allocate(bytes));
  return store;
}

kernels::KvView BlockStore::layer(int index) {
  const std::size_t half = block_bytes_ * static_cast<std::size_t>(blocks_);
  std::byte* keys = memory_.data() + 2 * half * static_cast<std::size_t>(index);
  return {.keys = keys,
          .values = keys + half,
          .block_bytes = block_bytes_,
          .kv_heads = kv_heads_,
          .head_dim = head_dim_,
          .type = type_ == KvType::bf16 ? kernels::KvType::bf16 : kernels::KvType::f16};
}

void BlockStore::copy_block(int from, int to) {
  CHECK(from >= 0 && from < blocks_ && to >= 0 && to < blocks_ && from != to, "two blocks of this store");
  for (int index = 0; index < layers_; ++index) {
    const kernels::KvView view = layer(index);
    for (std::byte* half : {view.keys, view.values})
      std::memcpy(half + block_bytes_ * static_cast<std::size_t>(to),
                  half + block_bytes_ * static_cast<std::size_t>(from), block_bytes_);
  }
}

}  // namespace ashlar::models
