#include "models/kv_store.h"

#include <fmt/format.h>
#include <unistd.h>

#include <cstring>

namespace ashlar::models {
namespace {

static_assert(kBlockTokens == kernels::kKvBlock, "the kernels lay out blocks of this many positions");

kernels::KvType kernel_type(KvType type) {
  switch (type) {
    case KvType::f16:
      return kernels::KvType::f16;
    case KvType::bf16:
      return kernels::KvType::bf16;
    case KvType::int8:
      return kernels::KvType::int8;
  }
  CHECK(false, "a known type");
}

std::size_t layer_block_bytes(const Shape& s, KvType type) {
  const kernels::KvView one{.kv_heads = s.kv_heads, .head_dim = s.head_dim, .type = kernel_type(type)};
  return static_cast<std::size_t>(s.kv_heads) * one.head_bytes();
}

// From one block to the next. Attention reads the same layer and head of many
// blocks: an odd number of pages between them, and they do not compete for the
// same few places of a cache, as they would at a power of two.
std::size_t stride(const Shape& s, KvType type) {
  constexpr std::size_t kPage = 4096, kLarge = 16 * kPage;
  const std::size_t bytes = layer_block_bytes(s, type) * static_cast<std::size_t>(s.layers);
  if (bytes < kLarge) return bytes;
  return ((bytes + kPage - 1) / kPage | 1) * kPage;
}

std::uint64_t physical_memory() {
  return static_cast<std::uint64_t>(::sysconf(_SC_PHYS_PAGES)) * static_cast<std::uint64_t>(::sysconf(_SC_PAGESIZE));
}

}  // namespace

Result<KvType> kv_type_of(std::string_view name) {
  if (name == "auto") return kernels::natural_kv_type() == kernels::KvType::bf16 ? KvType::bf16 : KvType::f16;
  if (name == "f16") return KvType::f16;
  if (name == "bf16") return KvType::bf16;
  if (name == "int8") return KvType::int8;
  return Error{Code::invalid, fmt::format("kv_type is '{}', but it must be auto, f16, bf16 or int8", name)};
}

std::string_view name_of(KvType type) { return type == KvType::f16 ? "f16" : type == KvType::bf16 ? "bf16" : "int8"; }

Bytes BlockStore::block_bytes(const Shape& shape, KvType type) { return {stride(shape, type)}; }

Result<std::unique_ptr<BlockStore>> BlockStore::create(const Shape& shape, int blocks, KvType type) {
  CHECK(blocks > 0, "a store has blocks");
  const std::uint64_t bytes = block_bytes(shape, type).count * static_cast<std::uint64_t>(blocks);
  // The system hands out addresses freely and finds out too late that it lacks the memory.
  if (bytes > physical_memory())
    return Error{Code::exhausted, fmt::format("{} blocks of keys and values need {}, but this machine has {} of memory",
                                              blocks, to_string(Bytes{bytes}), to_string(Bytes{physical_memory()}))};
  std::unique_ptr<BlockStore> store(new BlockStore());
  store->kv_heads_ = shape.kv_heads;
  store->head_dim_ = shape.head_dim;
  store->blocks_ = blocks;
  store->type_ = type;
  store->layer_bytes_ = layer_block_bytes(shape, type);
  store->stride_ = stride(shape, type);
  store->memory_ = TRY(kernels::HugeMemory::allocate(bytes));
  return store;
}

kernels::KvView BlockStore::layer(int index) {
  return {.data = memory_.data() + layer_bytes_ * static_cast<std::size_t>(index),
          .block_bytes = stride_,
          .kv_heads = kv_heads_,
          .head_dim = head_dim_,
          .type = kernel_type(type_)};
}

void BlockStore::copy_block(int from, int to) {
  CHECK(from >= 0 && from < blocks_ && to >= 0 && to < blocks_ && from != to, "two blocks of this store");
  std::memcpy(memory_.data() + stride_ * static_cast<std::size_t>(to),
              memory_.data() + stride_ * static_cast<std::size_t>(from), stride_);
}

}  // namespace ashlar::models
