// A loaded model: one forward pass over the tokens of many sequences.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "base/bytes.h"
#include "base/result.h"

namespace ashlar::models {

class Profile;
struct ClassifierHead;

inline constexpr int kBlockTokens = 16;  // positions in one KV block

enum class KvType { f16, bf16, int8 };

// "f16", "bf16", "int8", or "auto": of the first two what this CPU reads without conversion. invalid: another name.
Result<KvType> kv_type_of(std::string_view name);
std::string_view name_of(KvType type);

// Sizes of a transformer, whatever its architecture.
struct Shape {
  std::string architecture;  // "llama"
  int layers = 0;
  int width = 0;   // of the residual stream
  int hidden = 0;  // of the feed-forward
  int heads = 0;
  int kv_heads = 0;
  int head_dim = 0;
  int vocabulary = 0;
  int context = 0;         // positions the model was trained for
  int sliding_window = 0;  // 0: full attention
  int full_every = 0;      // every so manieth layer sees all positions despite the window; 0: none does

  // Of one layer; 0: it sees all.
  int window(int layer) const { return full_every > 0 && (layer + 1) % full_every == 0 ? 0 : sliding_window; }
};

// Keys and values of every layer, in numbered blocks of kBlockTokens positions.
// Allocated whole at start; who owns which block is the caller's business.
class KvStore {
 public:
  virtual ~KvStore() = default;
  virtual int blocks() const = 0;
  virtual Bytes bytes() const = 0;
  // The contents of `from` into `to`, all layers. Engine thread.
  virtual void copy_block(int from, int to) = 0;
};

// Small weights beside a model's own, for the rows that ask for them. Made by Model::load_adapter(); frozen; any
// thread. Must not outlive the model.
class Adapter {
 public:
  virtual ~Adapter() = default;
  virtual Bytes bytes() const = 0;
};

// One forward pass. Rows are tokens; each sequence's rows stand together.
struct Step {
  struct Sequence {
    int first_row = 0;
    int rows = 0;
    int first_position = 0;            // position of its first row; earlier ones are in the KV store
    std::span<const int> blocks;       // its block table, covering first_position + rows
    const Adapter* adapter = nullptr;  // of this model; null: the model alone
  };
  std::span<const std::int32_t> tokens;  // [rows]
  std::span<const Sequence> sequences;
  std::span<const int> logit_rows;  // rows whose logits are wanted, rising
  std::span<float> logits;          // out: [logit_rows, vocabulary], row-major; or empty: not wanted
  std::span<float> hidden = {};     // out: [logit_rows, width], what logits are made from; or empty
  // Called now and then by forward()'s thread, while the step rests. It may run another step, whose sequences have
  // blocks of their own and which has no pause; null: nobody wants to.
  const std::function<void()>* pause = nullptr;
};

// What one token costs: each weight is a multiplication and an addition, and
// decoding one sequence reads every byte once.
struct Work {
  std::int64_t weights = 0;
  Bytes bytes;
  enum class Products { f32, bf16, int8 } products = Products::f32;  // what most of them are
};

// Frozen after loading. forward() belongs to one thread at a time, which may come again in a step's pause. A row's
// result does not depend on which other rows share the pass.
class Model {
 public:
  virtual ~Model() = default;
  virtual const Shape& shape() const = 0;
  virtual Work work_per_token() const { return {}; }
  // Weights that lie in the system's page cache: it counts them as memory that is
  // available, but each step reads them.
  virtual Bytes mapped_weights() const { return {}; }
  virtual Bytes kv_block_bytes(KvType type) const = 0;
  // exhausted: the memory cannot be had.
  virtual Result<std::unique_ptr<KvStore>> make_kv_store(int blocks, KvType type) const = 0;
  virtual void forward(const Step& step, KvStore& kv) = 0;
  // Of a model that ranks texts; nullptr: it has none.
  virtual const ClassifierHead* head() const { return nullptr; }
  // A LoRA adapter from a PEFT folder or a GGUF file. Any thread, also while a step runs. not_found, io, corrupt: the
  // file; invalid: it is for another model; unsupported: it is no plain LoRA adapter.
  virtual Result<std::shared_ptr<const Adapter>> load_adapter(const std::string& path) const {
    return Error{Code::unsupported, path + ": this model takes no adapters"};
  }
  // forward() tells `profile` (models/profile.h) where its time goes, until
  // another is named; nullptr: nobody. The profile has the model's layers.
  virtual void watch(Profile*) {}
};

}  // namespace ashlar::models
