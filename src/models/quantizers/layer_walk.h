// A text through a model, one layer at a time: what quantizers that look at activations need. All tokens go through a
// layer before the next one is read, so that no more than one layer's weights are in memory.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "base/result.h"
#include "base/threads.h"
#include "models/architecture.h"
#include "models/layers.h"
#include "models/loader.h"

namespace ashlar::models {

// A tensor of the file as rows of floats. Errors: what a tensor that lies in no file is made of.
Result<std::vector<float>> floats_of(const gguf::File& file, const gguf::Tensor& tensor, ThreadPool& pool);

// Belongs to one thread, which the pool helps. Not movable: layers point into it.
class LayerWalk final : private Listener {
 public:
  // Matrices that meet the same input, stacked in this order.
  struct Product {
    const std::byte* packed = nullptr;  // which tells it from others
    std::vector<const gguf::Tensor*> tensors;
    int expert = -1;  // of an expert: which of the matrices that each tensor stacks
    int columns() const { return static_cast<int>(tensors.front()->columns()); }
  };
  // Rows of a product's input, which may be changed before they are multiplied.
  using See = std::function<void(const Product& product, float* h, std::size_t ld, int rows)>;
  // Called once for each window of a pass; an error stops it.
  using Look = std::function<Status()>;

  // `tokens` are whole windows, each read from position 0. `model` of open_model(); it and the pool must outlive
  // this. corrupt, unsupported: tensors that are not those of the architecture; exhausted: no memory.
  static Result<std::unique_ptr<LayerWalk>> create(const LoadedModel& model, std::span<const std::int32_t> tokens,
                                                   int window, ThreadPool& pool);
  LayerWalk(const LayerWalk&) = delete;

  const gguf::File& file() const { return *model_.file; }
  int layers() const { return config_.shape.layers; }
  std::int64_t tokens() const { return static_cast<std::int64_t>(tokens_.size()); }

  // Reads layer `index`, one after another from 0, with what replace() put in place of the file's tensors.
  Status load(int index);
  // Of the layer loaded, in the order in which they are used.
  std::span<const Product> products() const { return products_; }
  // Those of the layer's experts; each sees the rows that are routed to it.
  std::span<const Product> experts() const { return experts_; }
  // Of the loaded layer, or another one: nullptr if there is none.
  const gguf::Tensor* find(std::string_view name) const { return model_.file->find_tensor(name); }

  // The tensor of the loaded layer is now these bytes (kept). Seen from the next pass on, after reload().
  void replace(const gguf::Tensor& tensor, kernels::Type type, std::vector<std::byte> bytes);
  Status reload();

  // All tokens through the loaded layer; what comes out is dropped, or, with `advance`, what the next layer gets.
  Status pass(bool advance, const See& see, const Look& look, const See& see_experts = {});
  // One window alone, counted from 0, up to the input of products()[last]: nothing advances.
  void pass_window(std::size_t index, std::size_t last, const See& see);
  std::size_t windows() const { return tokens_.size() / static_cast<std::size_t>(window_); }

  // [tokens, width]: what the loaded layer gets, or after a pass with `advance` what the next one does. May be changed.
  std::span<float> stream() { return x_; }

 private:
  struct Replaced {
    kernels::Type type;
    std::vector<std::byte> bytes;
  };
  LayerWalk(const LoadedModel& model, std::span<const std::int32_t> tokens, int window, ThreadPool& pool);
  Status prepare();
  Status fill(const TensorList::Need& need);
  Status pack(const TensorList::Need& need, std::vector<kernels::RawMatrix> stack) const;
  void list_products(const TensorList::Need& need);
  Status run(const Look& look);
  void run_window(std::size_t index);

  bool enter(float* x, std::size_t ld, int rows) override;
  bool input(const kernels::PackedMatrix& matrix, float* h, std::size_t ld, int rows) override;
  void leave(const float* x, std::size_t ld, int rows) override;

  const LoadedModel& model_;
  const Architecture& architecture_;
  Config config_;
  std::vector<std::int32_t> tokens_;
  int window_;
  ThreadPool& pool_;
  TensorList list_;
  std::vector<std::byte> embedding_;  // its rows, where they lie in no file
  Weights all_;                       // where the list's needs point
  Weights one_;                       // the embedding, and the one layer that is loaded, or none
  int loaded_ = -1;
  std::vector<Product> products_, experts_;
  std::map<const gguf::Tensor*, Replaced> replaced_;
  std::unique_ptr<Pass> pass_;
  std::unique_ptr<BlockStore> kv_;
  std::vector<float> x_;  // [tokens, width], before the loaded layer
  bool look_up_ = false, keep_ = false;
  std::size_t at_ = 0;  // the first token of the window at work
  const See *see_ = nullptr, *see_experts_ = nullptr;
  const std::byte* last_ = nullptr;  // the product after whose input a pass ends, if one does
};

}  // namespace ashlar::models
