#include "models/kv_store.h"

#include <fmt/format.h>
#include <unistd.h>

#include <cstring>

namespace ashlar::models {
namespace {

static_assert(kBlockTokens == kernels::kKvBlock, "the kernels lay out blocks of this many positions");

constexpr std::size_t kValueBytes = 2;  // f16 and bf16

std::size_t half_bytes(const Shape& s) {
  return static_cast<std::size_t>(s.kv_heads) * static_cast<std::size_t>(s.head_dim) * kBlockTokens * kValueBytes;
}

// From one block to the next. Attention reads the same layer and head of many
// blocks: an odd number of pages between them, and they do not compete for the
// same few places of a cache, as they would at a power of two.
std::size_t stride(const Shape& s) {
  constexpr std::size_t kPage = 4096, kLarge = 16 * kPage;
  const std::size_t bytes = 2 * half_bytes(s) * static_cast<std::size_t>(s.layers);
  if (bytes < kLarge) return bytes;
  return ((bytes + kPage - 1) / kPage | 1) * kPage;
}

std::uint64_t physical_memory() {
  return static_cast<std::uint64_t>(::sysconf(_SC_PHYS_PAGES)) * static_cast<std::uint64_t>(::sysconf(_SC_PAGESIZE));
}

}  // namespace

Bytes BlockStore::block_bytes(const Shape& shape) { return {stride(shape)}; }

Result<std::unique_ptr<BlockStore>> BlockStore::create(const Shape& shape, int blocks, KvType type) {
  CHECK(blocks > 0, "a store has blocks");
  const std::uint64_t bytes = block_bytes(shape).count * static_cast<std::uint64_t>(blocks);
  // The system hands out addresses freely and finds out too late that it lacks the memory.
  if (bytes > physical_memory())
    return Error{Code::exhausted, fmt::format("{} blocks of keys and values need {}, but this machine has {} of memory",
                                              blocks, to_string(Bytes{bytes}), to_string(Bytes{physical_memory()}))};
  std::unique_ptr<BlockStore> store(new BlockStore());
  store->kv_heads_ = shape.kv_heads;
  store->head_dim_ = shape.head_dim;
  store->blocks_ = blocks;
  store->type_ = type;
  store->half_bytes_ = half_bytes(shape);
  store->stride_ = stride(shape);
  store->memory_ = TRY(kernels::HugeMemory::allocate(bytes));
  return store;
}

kernels::KvView BlockStore::layer(int index) {
  std::byte* keys = memory_.data() + 2 * half_bytes_ * static_cast<std::size_t>(index);
  return {.keys = keys,
          .values = keys + half_bytes_,
          .block_bytes = stride_,
          .kv_heads = kv_heads_,
          .head_dim = head_dim_,
          .type = type_ == KvType::bf16 ? kernels::KvType::bf16 : kernels::KvType::f16};
}

void BlockStore::copy_block(int from, int to) {
  CHECK(from >= 0 && from < blocks_ && to >= 0 && to < blocks_ && from != to, "two blocks of this store");
  std::memcpy(memory_.data() + stride_ * static_cast<std::size_t>(to),
              memory_.data() + stride_ * static_cast<std::size_t>(from), stride_);
}

}  // namespace ashlar::models
