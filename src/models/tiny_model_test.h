// Random small models for tests: written as a GGUF file, and computed by a plain
// forward pass in double precision that shares no code with the product.
#pragma once

#include <cmath>
#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <vector>

#include "kernels/types.h"
#include "models/formats/gguf_writer.h"

namespace ashlar::models {

struct TinySpec {
  std::string architecture = "llama";
  int layers = 2, width = 32, hidden = 48, heads = 4, kv_heads = 2, head_dim = 8, vocabulary = 40, context = 128;
  int rope_dims = 0;  // 0: the whole head
  int window = 0;
  bool tied = false;
  bool halves = false;  // rope pairs (i, i + n/2)
  bool qkv_bias = false;
  bool head_norms = false;   // of q and k
  bool whole_norms = false;  // of q and k, all heads as one
  bool fused = false;        // q, k, v in one tensor; gate, up in one
  bool long_rope = false;    // rope_factors_long.weight and rope_factors_short.weight; rope_length multiplies
  double rope_length = 1;
  bool gelu = false;
  int full_every = 0;           // with a window: every so manieth layer sees all positions; 0: none
  double window_rope_base = 0;  // of layers with a window, without scaling; 0: as the others
  bool pre_norms = true, post_norms = false;
  bool rope_factors = false;  // a rope_freqs.weight
  std::string rope_scaling;   // "", "linear", "yarn"
  double rope_base = 10000, rope_factor = 4;
  int original_context = 32;
  kernels::Type type = kernels::Type::f32;        // of the matrices
  kernels::Type other_type = kernels::Type::f32;  // of W_v and W_down, where it differs
  bool mixed = false;                             // other_type is used
  double embedding_scale = 1, residual_scale = 1, logit_divisor = 1;
  double attention_scale = 0;               // of q; 0: 1 / sqrt(head_dim)
  bool fused_up = false;                    // gate and up in one tensor
  double attention_cap = 0, logit_cap = 0;  // bounds; 0: none
  std::uint64_t seed = 1;
  // Feed-forwards of experts, beginning with layer `dense_layers`.
  int experts = 0, experts_used = 2, expert_hidden = 24, shared_hidden = 0, dense_layers = 0;
  int expert_groups = 1, expert_groups_used = 1;
  std::string scores = "softmax";  // "sigmoid", "chosen": softmax of those chosen
  bool normalize = false, shared_gate = false, choice_bias = false, expert_biases = false, clamped = false;
  double expert_scale = 1;
  kernels::Type expert_type = kernels::Type::f32;  // of the experts' matrices, where it is not F32
  bool sinks = false, output_bias = false;
  std::string feed_forward_norm = "ffn_norm";  // its name
  bool whole_pairs = true;                     // YaRN's ramp is between whole pairs
  // Latent attention: head_dim is a key's, its last rope_dims turn and are shared.
  int latent_rank = 0, query_rank = 0, value_dim = 0;
  bool split = false;                               // keys and values are made by tensors of their own
  double log_multiplier = -1;                       // of YaRN; below 0: no key
  bool expert_keys = false;                         // that say all of this, where the architecture does not
  std::map<std::string, std::uint32_t> wrong_keys;  // of the experts, written instead of what holds
};

inline TinySpec tiny_gemma3() {
  return {.architecture = "gemma3",
          .layers = 7,
          .head_dim = 16,
          .window = 7,
          .tied = true,
          .halves = true,
          .head_norms = true,
          .gelu = true,
          .full_every = 6,
          .window_rope_base = 10000,
          .post_norms = true,
          .rope_base = 1e6,
          .embedding_scale = std::sqrt(32.0)};
}

class TinyModel {
 public:
  explicit TinyModel(const TinySpec& spec);

  const TinySpec& spec() const { return spec_; }
  const gguf::Writer& writer() const { return writer_; }
  gguf::Writer& writer() { return writer_; }

  // The plain pass computes with W + scale * B A from now on; a [rank, columns], b [rows, rank]. The file stays.
  void add_low_rank(const std::string& name, std::span<const float> a, std::span<const float> b, int rank,
                    double scale);
  // Its tensors, for who writes them in another form and computes with what is left of them.
  struct Values {
    int rows, columns;
    std::vector<double> values;
  };
  std::map<std::string, Values> values() const;
  void set_values(const std::string& name, std::vector<double> values);

  // The logits after each token of the sequence, [tokens][vocabulary].
  std::vector<std::vector<double>> logits(std::span<const std::int32_t> tokens) const;

 private:
  struct Matrix {
    int rows = 0, columns = 0;
    std::vector<double> values;
    std::vector<std::byte> bytes;
  };
  using Vector = std::vector<double>;

  void add(const std::string& name, int rows, int columns, kernels::Type type, double deviation, double mean = 0,
           int count = 0);
  void add_keys();
  void add_tensors();
  void add_expert_keys();
  void add_experts(const std::string& blk, kernels::Type other, double spread);
  const Matrix& tensor(const std::string& name) const { return tensors_.at(name); }
  Vector multiply(const std::string& name, const Vector& x) const;
  Vector plus(Vector x, const std::string& name, int first = 0) const;
  Vector gated(Vector gate, Vector up) const;
  std::vector<std::pair<int, double>> choose(const std::string& blk, const Vector& h) const;
  Vector mix(const std::string& blk, const Vector& h) const;
  Vector rows_of(const std::string& name, const Vector& x, int first, int count) const;
  Vector normalize(const std::string& name, const Vector& x, int from, int count) const;
  int window(int layer) const;
  void rotate(Vector& x, int heads, int position, int layer, int stride, int offset = 0) const;
  struct Heads {
    Vector q, k, v;  // v of latent attention: [heads, value_dim]
  };
  Heads latent_heads(const std::string& blk, const Vector& x, int position, int layer) const;
  Heads plain_heads(const std::string& blk, const Vector& x, int position, int layer) const;
  void add_latent(const std::string& blk, double spread);
  Vector attend(int layer, int position, Vector q, std::vector<Vector>& keys, std::vector<Vector>& values) const;

  TinySpec spec_;
  std::map<std::string, Matrix> tensors_;
  gguf::Writer writer_;
};

// Plain readings of the published block formats.
std::vector<double> plain_values(kernels::Type type, std::span<const std::byte> bytes);

}  // namespace ashlar::models
