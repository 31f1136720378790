// What llama-like transformers are made of: their weights, and the pieces of
// one forward pass. An architecture's file puts the pieces in order.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "base/threads.h"
#include "kernels/attention.h"
#include "kernels/elementwise.h"
#include "kernels/matrix.h"
#include "models/config.h"
#include "models/experts.h"
#include "models/kv_store.h"
#include "models/lora.h"
#include "models/model.h"
#include "models/profile.h"
#include "models/rows.h"
#include "models/tensors.h"

namespace ashlar::models {

struct Layer {
  int index = 0;
  std::vector<float> attention_norm;       // [width]
  kernels::PackedMatrix qkv;               // [(heads + 2 kv_heads) head_dim, width]; of latent attention what makes the
                                           // short vectors of queries (or q) and keys, then the part of keys that turns
  kernels::PackedMatrix q_up, kv_up;       // of latent attention: of the short vectors q, and each head's key and value
  std::vector<float> qkv_bias;             // [its rows], or empty
  std::vector<float> q_norm, k_norm;       // [head_dim] each, or over all heads: [heads head_dim], [kv_heads head_dim]
  std::vector<float> sinks;                // [heads], or empty
  kernels::PackedMatrix attention_output;  // [width, heads head_dim]
  std::vector<float> attention_output_bias;   // [width], or empty
  std::vector<float> attention_post_norm;     // [width]
  std::vector<float> feed_forward_norm;       // [width]
  kernels::PackedMatrix gate_up;              // [2 hidden, width]; empty where there are experts
  kernels::PackedMatrix down;                 // [width, hidden]
  Experts experts;                            // where the configuration has some in this layer
  std::vector<float> feed_forward_post_norm;  // [width]
};

struct Weights {
  Embedding embedding;  // [vocabulary, width]
  std::vector<Layer> layers;
  std::vector<float> output_norm;   // [width]
  kernels::PackedMatrix output;     // [vocabulary, width]
  std::vector<float> rope_factors;  // [rope dims / 2], or empty
};

// The names that GGUF gives to the tensors of these pieces.
std::string tensor_name(int layer, std::string_view part);  // "blk.3.attn_q.weight"
void list_embedding(const Shape& shape, Weights& weights, TensorList& list);
// The norm before attention, and its matrices.
void list_attention(const Shape& shape, int index, Layer& layer, TensorList& list);
void list_attention_matrices(const Shape& shape, int index, Layer& layer, TensorList& list);
void list_qkv_bias(const Shape& shape, int index, Layer& layer, TensorList& list, bool optional);
void list_head_norms(const Shape& shape, int index, Layer& layer, TensorList& list);
// Of all heads of q, and of k, as one.
void list_whole_norms(const Shape& shape, int index, Layer& layer, TensorList& list);
// The norm before the feed-forward, and its matrices.
void list_feed_forward(const Shape& shape, int index, Layer& layer, TensorList& list);
void list_feed_forward_matrices(const Shape& shape, int index, Layer& layer, TensorList& list);
// The norm, and the experts or the matrices as the layer has them.
void list_feed_forward(const Config& config, int index, Layer& layer, TensorList& list);
// The norm before latent attention, and its matrices and norms.
void list_latent_attention(const Config& config, int index, Layer& layer, TensorList& list);
// The norms behind both.
void list_post_norms(const Shape& shape, int index, Layer& layer, TensorList& list);
// The embedding again where the file has no output matrix of its own.
void list_output(const Shape& shape, Weights& weights, TensorList& list);

// Sits in on passes, to see what weights are multiplied with. Called by the thread that runs the step.
class Listener {
 public:
  virtual ~Listener() = default;
  // The stream enters the layers: true where x [rows, width], rows `ld` floats apart, has been filled here and the
  // tokens are not looked up.
  virtual bool enter(float* x, std::size_t ld, int rows) = 0;
  // `matrix` is about to multiply h [rows, its columns], which may be changed here. False: what is left of the pass is
  // not wanted; it goes on without rows.
  virtual bool input(const kernels::PackedMatrix& matrix, float* h, std::size_t ld, int rows) = 0;
  // The stream as it leaves the layers, all rows of it; there are no logits then.
  virtual void leave(const float* x, std::size_t ld, int rows) = 0;
};

// One forward pass over some rows: x, the residual stream [rows, width], and h,
// what the next product reads. The pieces are called in an architecture's order
// by the thread that runs the step; each spreads its work over the pool. Memory
// is taken when the Pass is made, and used as far as steps have rows.
class Pass {
 public:
  // exhausted: no memory.
  static Result<std::unique_ptr<Pass>> create(const Config& config, std::span<const float> rope_factors, int max_rows,
                                              ThreadPool& pool);

  int max_rows() const { return max_rows_; }

  // Tells `profile` what each piece takes from now on; nullptr: nobody.
  void watch(Profile* profile) { profile_ = profile; }

  // The same for what goes through the layers.
  void listen(Listener* listener) { listener_ = listener; }

  // Rows [first, first + rows) of the step are next. rows <= max_rows().
  void begin(const Step& step, int first, int rows, BlockStore& kv);

  // x = the tokens' rows of the embedding, scaled as the configuration says; so are what project() adds and the logits.
  void embed(const Embedding& embedding);

  // h = x / rms(x) * weight
  void norm(std::span<const float> weight);

  // h = x, where a layer begins without a norm.
  void take(const Layer& layer);
  // Before x receives what project() gave: over its rms, times weight.
  void post_norm(std::span<const float> weight);

  // q, k, v = W h, plus the layer's bias if it has one.
  void qkv(const Layer& layer);
  // Each head of q and of k: over its rms, times its weight.
  void norm_heads(const Layer& layer);
  // All of q, and all of k, likewise.
  void norm_whole(const Layer& layer);
  // Turns q and k by their positions.
  void rotate();
  // q, k, v of latent attention, all heads turned; q_norm and k_norm are those of the short vectors.
  void latent_qkv(const Layer& layer);
  // Stores k and v; h = what each q attends to, all heads side by side. In the
  // last layer only the rows whose logits are asked go on from here.
  void attend(const Layer& layer);

  // h = silu(W_gate h) * (W_up h), or gelu
  void gated_silu(const kernels::PackedMatrix& gate_up) { gate(gate_up, kernels::silu_mul); }
  void gated_gelu(const kernels::PackedMatrix& gate_up) { gate(gate_up, kernels::gelu_mul); }

  // x += what the layer's experts, or else its feed-forward gated by silu, give for h.
  void feed_forward(const Layer& layer);

  // x += W h + bias; the bias may be empty.
  void project(const kernels::PackedMatrix& matrix, std::span<const float> bias = {});

  // The asked rows' logits = W h, and h itself, as far as they are wanted.
  void logits(const kernels::PackedMatrix& matrix);

 private:
  Pass(const Config& config, std::span<const float> rope_factors, int max_rows, ThreadPool& pool);
  void take_sequences(const Step& step, int first);
  void take_logit_rows(const Step& step, int first);
  void drop_rows();
  void keep_asked_rows();
  void convert(const kernels::PackedMatrix& matrix);
  void multiply(Operation operation, const kernels::PackedMatrix& matrix, float* y, std::size_t ldy);
  void gate(const kernels::PackedMatrix& gate_up, decltype(&kernels::silu_mul) activation);
  void expand_latent(const Layer& layer);
  void drop_padding();
  void run_experts(const Layer& layer);
  void add_shared(const Experts& experts);
  void end_branch();
  Cost attention_cost() const;
  int layer_index() const { return layer_ == nullptr ? 0 : layer_->index; }

  Config config_;
  int max_rows_;
  ThreadPool& pool_;
  kernels::Rope rope_;
  std::optional<kernels::Rope> window_rope_;
  FloatRows x_, h_, delta_;
  FloatRows y_;  // what a product gave: q, k, v side by side, or gate, up
  kernels::Activations activations_;
  std::optional<ExpertRunner> experts_;
  FloatRows routes_;  // the router's logits
  LoraRows lora_;
  FloatRows ordered_;  // h in the order of a matrix's columns; memory is taken by the first that has one
  FloatRows short_;    // of latent attention: what qkv() makes of x,
  FloatRows long_;     // and what is made of keys' and values' short vectors

  Profile* profile_ = nullptr;
  Listener* listener_ = nullptr;

  // The rows at hand.
  int rows_ = 0;
  const Layer* layer_ = nullptr;  // the last that qkv() saw
  BlockStore* kv_ = nullptr;
  bool delta_pending_ = false;  // x is still to receive delta
  const std::function<void()>* pause_ = nullptr;
  std::span<const std::int32_t> tokens_;
  std::vector<int> positions_;
  std::vector<const LoraAdapter*> adapters_;  // of each row; empty: none has one
  std::vector<kernels::KvSequence> sequences_, asked_sequences_;
  std::vector<int> asked_;   // rising
  std::span<float> logits_;  // [asked, vocabulary], or empty
  std::span<float> hidden_;  // [asked, width], or empty
};

}  // namespace ashlar::models
