// A layer's feed-forward made of experts (Shazeer et al., arXiv:1701.06538): a router gives each row a few of them,
// and only those are computed.
#pragma once

#include <span>
#include <vector>

#include "base/threads.h"
#include "kernels/matrix.h"
#include "models/config.h"
#include "models/profile.h"
#include "models/rows.h"
#include "models/tensors.h"

namespace ashlar::models {

// The weights of one layer.
struct Experts {
  kernels::PackedMatrix router;                // [count, width]; one row more for the shared part's gate
  std::vector<float> router_bias;              // [count], or empty
  std::vector<float> choice_bias;              // [count], or empty
  std::vector<kernels::PackedMatrix> gate_up;  // of each expert [2 hidden, width]
  std::vector<kernels::PackedMatrix> down;     // [width, hidden]
  std::vector<float> gate_bias, up_bias;       // [count, hidden], or empty
  std::vector<float> down_bias;                // [count, width], or empty
  kernels::PackedMatrix shared_gate_up;        // [2 shared_hidden, width]; of a model without a shared part empty,
  kernels::PackedMatrix shared_down;           // and [width, shared_hidden]
};

class Listener;

void list_experts(const Config& config, int layer, Experts& experts, TensorList& list);

struct Choice {
  int expert;
  float weight;
};

// The experts of one row, the best first; of equals the one of lower index. `scores` [count]: the router's logits,
// overwritten; `room` [count + groups]. Whatever the logits are, out [used] has different experts.
void choose_experts(const ExpertsConfig& config, std::span<const float> choice_bias, std::span<float> scores,
                    std::span<float> room, std::span<Choice> out);

// x sigmoid(1.702 x) (y + 1), with x at most 7 and y within 7: gpt-oss. gate and up [n]; the result goes to `gate`, and
// `up` is overwritten.
void clamped_silu(float* gate, float* up, int n);

// The memory and the steps of it for the rows of a pass: rows are gathered by expert, each expert's product is over its
// rows, and what a row's experts give is added up in the order in which the row chose them, so that no row's bits
// depend on the others. One thread at a time. Takes its memory when it is made, the activations' at the first large
// step.
class ExpertRunner {
 public:
  // exhausted: no memory.
  static Result<ExpertRunner> create(const ExpertsConfig& config, int width, int max_rows);

  // out [rows, width] = the sum over each row's experts of weight times what they give for h [rows, width]. `logits`
  // [rows, count]: the router's. `layer` is for the profile, which may be null. The listener, too, may be null; it is
  // told of each expert's product.
  void run(const Experts& experts, int layer, const FloatRows& h, const FloatRows& logits, int rows, FloatRows& out,
           kernels::Activations& activations, ThreadPool& pool, Profile* profile, Listener* listener);

 private:
  void choose(const Experts& experts, const FloatRows& logits, int rows, ThreadPool& pool);
  void group(int rows);
  void gather(const FloatRows& h, int rows, ThreadPool& pool);
  void tell(std::span<const kernels::PackedMatrix> matrices, const FloatRows& rows, Listener* listener) const;
  void reorder(std::span<const kernels::PackedMatrix> matrices, FloatRows& rows, ThreadPool& pool) const;
  void multiply(Operation operation, int layer, std::span<const kernels::PackedMatrix> matrices, bool one_group,
                kernels::Activations& activations, const FloatRows& to, ThreadPool& pool, Profile* profile);
  void activate(const Experts& experts, ThreadPool& pool);
  void add_up(const Experts& experts, int rows, FloatRows& out, ThreadPool& pool);

  ExpertsConfig config_;
  int width_ = 0;
  FloatRows narrow_;             // [pairs of a row and an expert, width]: what experts get, then what they give
  FloatRows wide_;               // [pairs, 2 hidden]
  FloatRows room_;               // [rows, count + groups]
  std::vector<Choice> choices_;  // [rows, used]
  std::vector<int> places_;      // [rows, used]: where the pair stands among those of all experts
  std::vector<int> experts_, group_rows_;  // that have rows, rising, and how many
  std::vector<int> starts_;                // of each expert's pairs [count + 1]
  std::vector<int> expert_of_;             // of each place
  std::vector<kernels::Product> products_;
};

}  // namespace ashlar::models
