// Where the time of forward passes goes: by kind of operation, in each layer.
#pragma once

#include <chrono>
#include <cstdint>
#include <string_view>
#include <vector>

#include "models/model.h"

namespace ashlar::models {

enum class Operation {
  embed,
  norm,
  quantize,  // activations into the forms that the products read
  qkv,
  qkv_bias,
  head_norm,
  rope,
  store_kv,
  attention,
  attention_output,
  route,  // which experts a row meets, and rows to where they stand
  gate_up,
  activation,
  down,
  add_up,  // what a row's experts give
  logits
};
inline constexpr int kOperations = static_cast<int>(Operation::logits) + 1;
std::string_view name_of(Operation operation);

// What an operation reads from weights or from the KV store (as if each sequence
// read its own), and its multiplications and additions. 0: not told.
struct Cost {
  double bytes = 0;
  double operations = 0;
};

// The positions that `rows` rows of a sequence see, the first of them at `first_position`.
// window: as in AttentionShape; 0: all.
struct Seen {
  std::int64_t sum = 0;       // over the rows
  std::int64_t together = 0;  // seen by any of them
};
Seen positions_seen(int window, int first_position, int rows);

struct Spent {
  double seconds = 0;
  std::int64_t calls = 0;
  Cost cost;
};

// Sums. Belongs to the thread that runs the passes.
class Profile {
 public:
  explicit Profile(int layers);

  int layers() const { return layers_; }
  // `layer` in [0, layers()]; layers() is what stands outside of the layers.
  void add(Operation operation, int layer, double seconds, const Cost& cost);
  const Spent& at(Operation operation, int layer) const;
  Spent total(Operation operation) const;

 private:
  int layers_;
  std::vector<Spent> spent_;  // [kOperations, layers + 1]
};

// Tells the profile, if there is one, how long this object lived.
class Timed {
 public:
  Timed(Profile* profile, Operation operation, int layer, const Cost& cost = {}) : profile_(profile) {
    if (profile_ == nullptr) return;
    operation_ = operation;
    layer_ = layer;
    cost_ = cost;
    start_ = std::chrono::steady_clock::now();
  }
  ~Timed() {
    if (profile_ == nullptr) return;
    const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start_;
    profile_->add(operation_, layer_, seconds.count(), cost_);
  }
  Timed(const Timed&) = delete;
  Timed& operator=(const Timed&) = delete;

 private:
  Profile* profile_;
  Operation operation_{};
  int layer_ = 0;
  Cost cost_;
  std::chrono::steady_clock::time_point start_;
};

}  // namespace ashlar::models
