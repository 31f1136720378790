// Keys and values in memory, laid out for the attention kernels.
#pragma once

#include <memory>

#include "kernels/attention.h"
#include "kernels/matrix.h"
#include "models/model.h"

namespace ashlar::models {

// One allocation, block after block; in a block layer after layer, each with the keys
// and values of every KV head. So memory is touched in the order in which blocks are first used, and
// no more of it than they need.
class BlockStore final : public KvStore {
 public:
  static Bytes block_bytes(const Shape& shape, KvType type);  // of one block in all layers
  // exhausted: the memory cannot be had.
  static Result<std::unique_ptr<BlockStore>> create(const Shape& shape, int blocks, KvType type);

  int blocks() const override { return blocks_; }
  Bytes bytes() const override { return {memory_.bytes()}; }
  void copy_block(int from, int to) override;

  kernels::KvView layer(int index);

 private:
  BlockStore() = default;
  int kv_heads_ = 0, head_dim_ = 0, blocks_ = 0;
  KvType type_ = KvType::f16;
  std::size_t layer_bytes_ = 0;  // of one layer in a block
  std::size_t stride_ = 0;       // from one block to the next
  kernels::HugeMemory memory_;
};

}  // namespace ashlar::models
