// What encoders like BERT are made of: their weights, and the pieces of one forward pass over some texts. An
// architecture's file puts the pieces in order. Norms stand behind what they norm, so x is both the residual stream
// and what the next product reads.
#pragma once

#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "models/encoder.h"
#include "models/layers.h"

namespace ashlar::models {

struct LayerNorm {
  std::vector<float> weight, bias;  // [width]
};

struct EncoderLayer {
  kernels::PackedMatrix qkv;  // [3 width, width]
  std::vector<float> qkv_bias;
  kernels::PackedMatrix attention_output;  // [width, width]
  std::vector<float> attention_output_bias;
  LayerNorm attention_norm;
  kernels::PackedMatrix up;  // [hidden, width], or gate and up: [2 hidden, width]
  std::vector<float> up_bias;
  kernels::PackedMatrix down;  // [width, hidden]
  std::vector<float> down_bias;
  LayerNorm output_norm;
};

struct EncoderWeights {
  Embedding tokens;     // [vocabulary, width]
  Embedding types;      // [types, width], or no rows
  Embedding positions;  // [context, width], or no rows
  LayerNorm embedding_norm;
  std::vector<EncoderLayer> layers;
  ClassifierHead head;
};

// The names that GGUF gives to the tensors of these pieces. Biases are listed as optional.
void list_embeddings(const Config& config, EncoderWeights& weights, TensorList& list);
// q, k and v stand in the file as one matrix or as three.
void list_encoder_attention(const Shape& shape, const TensorSource& source, int index, EncoderLayer& layer,
                            TensorList& list);
void list_encoder_feed_forward(const Shape& shape, bool gated, int index, EncoderLayer& layer, TensorList& list);

// One forward pass over whole texts. The pieces are called in an architecture's order by the thread that runs the
// step; each spreads its work over the pool. Memory is taken when the pass is made, and used as far as steps have
// rows; keys and values of one layer, and none between steps.
class EncoderPass {
 public:
  // exhausted: no memory.
  static Result<std::unique_ptr<EncoderPass>> create(const Config& config, int max_tokens, int max_texts,
                                                     ThreadPool& pool);

  int max_tokens() const { return max_tokens_; }
  int max_texts() const { return max_texts_; }

  void begin(const EncodeStep& step);

  // x = the rows of the tokens, and of their types and positions where there are such.
  void embed(const EncoderWeights& weights);
  // x = the norm of x, and of what add() gave.
  void norm(const LayerNorm& norm);
  // q, k, v = W x + b
  void qkv(const EncoderLayer& layer);
  // Turns q and k by their positions.
  void rotate();
  // h = what each q finds in all of its text.
  void attend();
  // h = gelu(W x + b), as the configuration says
  void up(const EncoderLayer& layer);
  // h = silu(W_gate x) * (W_up x)
  void gated_silu(const EncoderLayer& layer);
  // To x comes W h + b, with the next norm.
  void add(const kernels::PackedMatrix& matrix, std::span<const float> bias);

  // Row `index` of x.
  const float* row(int index) const { return x_.row(index); }
  std::size_t ld() const { return x_.ld; }

 private:
  EncoderPass(const Config& config, int max_tokens, int max_texts, ThreadPool& pool);
  void multiply(const kernels::PackedMatrix& matrix, std::span<const float> bias, const FloatRows& from, FloatRows& to);

  Config config_;
  int max_tokens_, max_texts_;
  ThreadPool& pool_;
  kernels::Rope rope_;
  std::vector<float> ones_;  // [hidden]: what gelu without a gate multiplies
  FloatRows x_, h_, delta_;
  FloatRows y_;  // what a product gave: q, k, v side by side, or the feed-forward's inside
  kernels::Activations activations_;
  std::unique_ptr<BlockStore> kv_;  // of one layer
  std::vector<int> blocks_;         // 0, 1, 2, ...: the texts' block tables, one behind the other

  // The texts at hand.
  int rows_ = 0;
  bool delta_pending_ = false;
  std::span<const std::int32_t> tokens_;
  std::span<const std::uint8_t> types_;
  std::vector<int> positions_;
  std::vector<kernels::KvSequence> texts_;
};

}  // namespace ashlar::models
