// What a model file's keys say of a transformer: sizes, rope, constants.
#pragma once

#include <fmt/format.h>

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "models/formats/gguf.h"
#include "models/model.h"
#include "models/pooling.h"
#include "models/rope.h"

namespace ashlar::models {

// Bounds that keep every product of sizes within its type; no known model comes near.
inline constexpr int kMostLayers = 1024;
inline constexpr int kMostWidth = 1 << 18;
inline constexpr int kMostHidden = 1 << 20;
inline constexpr int kMostHeads = 1024;
inline constexpr int kMostHeadDim = 256;
inline constexpr int kMostContext = 1 << 27;
inline constexpr int kMostExperts = 1024;

// Feed-forwards made of experts, of which each token meets a few.
struct ExpertsConfig {
  enum class Scores {
    softmax,           // over all experts
    sigmoid,           // of each
    softmax_of_chosen  // over the chosen experts' logits, which choose by themselves
  };
  int count = 0;          // 0: none
  int used = 0;           // by one token
  int hidden = 0;         // of one expert
  int shared_hidden = 0;  // of what every token meets besides; 0: nothing
  int first_layer = 0;    // the layers before it have no experts
  Scores scores = Scores::softmax;
  bool normalize = false;  // the weights of those chosen add up to 1
  float scale = 1;         // of the weights
  // Experts stand in groups of equal size; a token's are chosen from its best groups alone.
  int groups = 1, groups_used = 1;
  bool shared_gate = false;  // what the shared part gives is weighted by a sigmoid of its own
  bool choice_bias = false;  // scores may be shifted for choosing alone
  bool biases = false;       // of the router's and the experts' products
  bool clamped = false;      // gates by clamped_silu() instead of silu()

  bool in_layer(int layer) const { return count > 0 && layer >= first_layer; }
};

// Attention whose keys and values are made of a short vector for each position (MLA, arXiv:2405.04434). A head's key
// has elements of its own, then those that turn and that all heads share.
struct LatentConfig {
  int rank = 0;        // of the short vector; 0: ordinary attention
  int query_rank = 0;  // likewise of the queries; 0: they are made of x
  int own_dims = 0;    // of a head's key
  int value_dim = 0;   // of a head
  bool split = false;  // the file has what makes keys apart from what makes values
};

// What only encoders have.
struct EncoderConfig {
  enum class Activation { gelu, gelu_tanh };  // of a feed-forward without a gate
  Activation activation = Activation::gelu;
  int token_types = 1;  // rows of the embedding of types
};

// Everything that the layers need to know besides the weights.
struct Config {
  Shape shape;
  RopeConfig rope;
  std::optional<RopeConfig> window_rope;  // of layers with a window, where theirs is another
  float rms_epsilon = 0;                  // of an encoder's norms too
  std::optional<EncoderConfig> encoder;
  std::optional<Pooling> pooling;   // of a model made to embed or to rank; empty: the file does not say
  std::vector<std::string> labels;  // of its classifier's scores; empty: not said
  // Factors of some architectures.
  float embedding_scale = 1;  // of the tokens' rows
  float attention_scale = 0;  // of q; 1 / sqrt(head_dim) unless the architecture says otherwise
  float residual_scale = 1;   // of what attention and the feed-forward add to x
  float logit_scale = 1;
  // Bounds: s becomes cap * tanh(s / cap). 0: none.
  float attention_cap = 0;  // of the scores, scaled
  float logit_cap = 0;
  ExpertsConfig experts;
  LatentConfig latent;
  bool further_layers = false;  // the file may have some behind those of the shape, which predict further tokens
};

// The keys of one architecture: "block_count" is "llama.block_count" in the file.
class Keys {
 public:
  // `file` must outlive this.
  Keys(const gguf::File& file, std::string_view architecture) : file_(file), architecture_(architecture) {}

  const gguf::File& file() const { return file_; }
  const std::string& architecture() const { return architecture_; }

  template <class T>
  Result<T> need(std::string_view key) const {
    return file_.need<T>(full(key));
  }
  template <class T>
  Result<T> get(std::string_view key, T otherwise) const {
    return file_.get<T>(full(key), otherwise);
  }
  // A whole number in [1, most]. corrupt: absent (without `otherwise`), or outside.
  Result<int> size(std::string_view key, int most, std::optional<int> otherwise = std::nullopt) const;
  // A finite number above 0.
  Result<double> positive(std::string_view key, std::optional<double> otherwise = std::nullopt) const;

  // Every so manieth layer sees all positions despite the window: a number, or a list that says of each layer whether
  // it has the window. unsupported: a list that keeps no such order.
  Result<int> pattern(int otherwise) const;

  // "model.gguf: key 'llama.block_count' WHAT"
  Error bad(std::string_view key, std::string_view what, Code code = Code::corrupt) const;

 private:
  std::string full(std::string_view key) const { return fmt::format("{}.{}", architecture_, key); }

  const gguf::File& file_;
  std::string architecture_;
};

// More layers than one that sees all positions stands among.
inline constexpr int kMostPattern = 1024;

// The keys that all the llama-like architectures share. corrupt: a key is
// missing or impossible; unsupported: sizes that the kernels do not take,
// experts, an unknown rope scaling.
Result<Config> read_config(const Keys& keys);
// The same where there may be experts; `usual`: what holds if no key says otherwise.
Result<Config> read_config(const Keys& keys, const ExpertsConfig& usual);
// The same of an encoder.
Result<Config> read_encoder_config(const Keys& keys);

// Its parts, for architectures whose attention is another.
Result<Config> read_sizes(const Keys& keys, std::string_view epsilon = "attention.layer_norm_rms_epsilon");
Status read_rope(const Keys& keys, const Shape& shape, RopeConfig& rope);
Result<ExpertsConfig> read_experts(const Keys& keys, const ExpertsConfig& usual, const Shape& shape);

}  // namespace ashlar::models
