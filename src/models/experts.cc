#include "models/experts.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <string>

#include "kernels/elementwise.h"
#include "kernels/kernels.h"
#include "models/layers.h"

namespace ashlar::models {
namespace {

constexpr float kLowest = std::numeric_limits<float>::lowest(), kTaken = -std::numeric_limits<float>::infinity();
constexpr int kTaskFloats = 16 * 1024;  // less is not worth waking a thread for

std::size_t size(int n) { return static_cast<std::size_t>(n); }

// fn(index) for all, in tasks of about kTaskFloats; an index takes `floats`.
void for_each(int count, int floats, ThreadPool& pool, FunctionRef<void(int)> fn) {
  const int step = std::max(1, kTaskFloats / std::max(1, floats));
  pool.for_each((count + step - 1) / step, [&](int task, int) {
    for (int i = task * step; i < std::min(count, (task + 1) * step); ++i) fn(i);
  });
}

// The place of the greatest, the first of equals. Takes it out.
std::size_t take_greatest(std::span<float> x) {
  const auto at = static_cast<std::size_t>(std::ranges::max_element(x) - x.begin());
  x[at] = kTaken;
  return at;
}

// Marks the experts of all but the best groups as taken. Where scores are a softmax, a group is as good as its best
// expert (DeepSeek-V2, arXiv:2405.04434); where each stands by itself, as its best two (V3, arXiv:2412.19437).
void keep_best_groups(const ExpertsConfig& config, std::span<float> wish, std::span<float> room) {
  const std::size_t each = wish.size() / size(config.groups);
  const auto groups = room.first(size(config.groups));
  for (std::size_t g = 0; g < groups.size(); ++g) {
    float best = kLowest, second = kLowest;
    for (const float value : wish.subspan(g * each, each)) {
      second = std::max(second, std::min(best, value));
      best = std::max(best, value);
    }
    const bool pair = config.scores == ExpertsConfig::Scores::sigmoid && each > 1;
    groups[g] = std::max(pair ? best + second : best, kLowest);
  }
  for (int i = 0; i < config.groups_used; ++i) take_greatest(groups);
  for (std::size_t g = 0; g < groups.size(); ++g)
    if (groups[g] != kTaken) std::ranges::fill(wish.subspan(g * each, each), kTaken);
}

}  // namespace

void list_experts(const Config& config, int layer, Experts& experts, TensorList& list) {
  const ExpertsConfig& c = config.experts;
  const int width = config.shape.width;
  const auto name = [&](std::string_view part) { return tensor_name(layer, part); };
  std::vector<TensorList::Rows> router{{name("ffn_gate_inp.weight"), c.count}};
  if (c.shared_gate) router.push_back({name("ffn_gate_inp_shexp.weight"), 1});
  list.exact_matrix(std::move(router), width, experts.router);
  list.matrices({{name("ffn_gate_exps.weight"), c.hidden}, {name("ffn_up_exps.weight"), c.hidden}}, width, c.count,
                experts.gate_up);
  list.or_merged({name("ffn_gate_up_exps.weight"), 2 * c.hidden});
  list.matrices({{name("ffn_down_exps.weight"), width}}, c.hidden, c.count, experts.down);
  if (c.choice_bias) list.optional_vector({{name("exp_probs_b.bias"), c.count}}, experts.choice_bias);
  if (c.biases) {
    list.vector({{name("ffn_gate_inp.bias"), c.count}}, experts.router_bias);
    list.vector_rows({name("ffn_gate_exps.bias"), c.count}, c.hidden, experts.gate_bias);
    list.vector_rows({name("ffn_up_exps.bias"), c.count}, c.hidden, experts.up_bias);
    list.vector_rows({name("ffn_down_exps.bias"), c.count}, width, experts.down_bias);
  }
  if (c.shared_hidden == 0) return;
  list.matrix({{name("ffn_gate_shexp.weight"), c.shared_hidden}, {name("ffn_up_shexp.weight"), c.shared_hidden}}, width,
              experts.shared_gate_up);
  list.matrix({{name("ffn_down_shexp.weight"), width}}, c.shared_hidden, experts.shared_down);
}

void choose_experts(const ExpertsConfig& config, std::span<const float> choice_bias, std::span<float> scores,
                    std::span<float> room, std::span<Choice> out) {
  const bool late = config.scores == ExpertsConfig::Scores::softmax_of_chosen;
  if (config.scores == ExpertsConfig::Scores::sigmoid)
    for (float& score : scores) score = 1 / (1 + std::exp(-score));
  else if (!late)
    kernels::softmax(scores);
  const auto wish = room.first(scores.size());
  for (std::size_t i = 0; i < wish.size(); ++i) {
    const float value = scores[i] + (choice_bias.empty() ? 0.0f : choice_bias[i]);
    wish[i] = std::isnan(value) ? kLowest : std::clamp(value, kLowest, -kLowest);  // all can still be taken
  }
  if (config.groups_used < config.groups) keep_best_groups(config, wish, room.subspan(scores.size()));
  float sum = 0;
  for (Choice& choice : out) {
    const std::size_t expert = take_greatest(wish);
    choice = {.expert = static_cast<int>(expert), .weight = scores[expert]};
    if (late) choice.weight = std::exp(choice.weight - scores[size(out.front().expert)]);
    sum += choice.weight;
  }
  const float factor = (late || config.normalize ? 1 / std::max(sum, 1e-20f) : 1.0f) * config.scale;
  for (Choice& choice : out) choice.weight *= factor;
}

void clamped_silu(float* gate, float* up, int n) {
  constexpr float kSteepness = 1.702f, kLimit = 7;
  for (int i = 0; i < n; ++i) {
    gate[i] = kSteepness * std::min(gate[i], kLimit);
    up[i] = (std::clamp(up[i], -kLimit, kLimit) + 1) / kSteepness;
  }
  kernels::kernels().silu_mul(gate, up, n, gate);
}

Result<ExpertRunner> ExpertRunner::create(const ExpertsConfig& config, int width, int max_rows) {
  ExpertRunner runner;
  runner.config_ = config;
  runner.width_ = width;
  const int pairs = max_rows * config.used;
  runner.narrow_ = TRY(FloatRows::allocate(pairs, width));
  runner.wide_ = TRY(FloatRows::allocate(pairs, 2 * config.hidden));
  runner.room_ = TRY(FloatRows::allocate(max_rows, config.count + config.groups));
  for (std::vector<int>* list : {&runner.places_, &runner.expert_of_}) list->resize(size(pairs));
  runner.choices_.resize(size(pairs));
  runner.starts_.resize(size(config.count + 1));
  const auto most = size(std::min(config.count, pairs));
  for (std::vector<int>* list : {&runner.experts_, &runner.group_rows_}) list->reserve(most);
  runner.products_.reserve(most);
  return runner;
}

void ExpertRunner::choose(const Experts& experts, const FloatRows& logits, int rows, ThreadPool& pool) {
  const std::size_t count = size(config_.count), used = size(config_.used);
  for_each(rows, 8 * config_.count, pool, [&](int row) {
    const std::span scores(logits.row(row), count);
    if (!experts.router_bias.empty()) kernels::kernels().add(experts.router_bias.data(), config_.count, scores.data());
    choose_experts(config_, experts.choice_bias, scores, {room_.row(row), count + size(config_.groups)},
                   std::span(choices_).subspan(size(row) * used, used));
  });
}

// Gives each pair of a row and an expert its place: one expert after the other, and within it the rows rise.
void ExpertRunner::group(int rows) {
  const auto pairs = std::span(choices_).first(size(rows * config_.used));
  std::ranges::fill(starts_, 0);
  for (const Choice& choice : pairs) ++starts_[size(choice.expert + 1)];
  experts_.clear();
  group_rows_.clear();
  for (int e = 0; e < config_.count; ++e) {
    if (starts_[size(e + 1)] > 0) {
      experts_.push_back(e);
      group_rows_.push_back(starts_[size(e + 1)]);
    }
    starts_[size(e + 1)] += starts_[size(e)];
  }
  for (std::size_t i = 0; i < pairs.size(); ++i) {
    places_[i] = starts_[size(pairs[i].expert)]++;
    expert_of_[size(places_[i])] = pairs[i].expert;
  }
}

// To each place its row.
void ExpertRunner::gather(const FloatRows& h, int rows, ThreadPool& pool) {
  for_each(rows, config_.used * width_, pool, [&](int row) {
    for (std::size_t i = size(row * config_.used); i < size((row + 1) * config_.used); ++i)
      std::memcpy(narrow_.row(places_[i]), h.row(row), size(width_) * sizeof(float));
  });
}

void ExpertRunner::tell(std::span<const kernels::PackedMatrix> matrices, const FloatRows& rows,
                        Listener* listener) const {
  int place = 0;
  for (std::size_t i = 0; i < experts_.size() && listener != nullptr; place += group_rows_[i++])
    listener->input(matrices[size(experts_[i])], rows.row(place), rows.ld, group_rows_[i]);
}

// Where matrices have their columns in an order of their own.
void ExpertRunner::reorder(std::span<const kernels::PackedMatrix> matrices, FloatRows& rows, ThreadPool& pool) const {
  if (matrices.front().order().empty()) return;
  for_each(starts_.back(), matrices.front().columns(), pool, [&](int place) {
    const auto order = matrices[size(expert_of_[size(place)])].order();
    float* row = rows.row(place);
    const std::vector<float> before(row, row + order.size());
    for (std::size_t c = 0; c < order.size(); ++c) row[c] = before[size(order[c])];
  });
}

// A product of each expert that has rows. `one_group`: the activations are one row, which all of them read.
void ExpertRunner::multiply(Operation operation, int layer, std::span<const kernels::PackedMatrix> matrices,
                            bool one_group, kernels::Activations& activations, const FloatRows& to, ThreadPool& pool,
                            Profile* profile) {
  Cost cost;
  products_.clear();
  int place = 0;
  for (std::size_t i = 0; i < experts_.size(); place += group_rows_[i++]) {
    const kernels::PackedMatrix& matrix = matrices[size(experts_[i])];
    products_.push_back({.w = &matrix, .group = one_group ? 0 : static_cast<int>(i), .y = to.row(place)});
    cost.bytes += static_cast<double>(matrix.bytes());
    cost.operations += 2.0 * matrix.rows() * matrix.columns() * group_rows_[i];
  }
  const Timed timed(profile, operation, layer, cost);
  kernels::matmul(products_, activations, to.ld, pool);
}

void ExpertRunner::activate(const Experts& experts, ThreadPool& pool) {
  const int hidden = config_.hidden;
  for_each(starts_.back(), 2 * hidden, pool, [&](int place) {
    float *gate = wide_.row(place), *up = gate + hidden;
    const std::size_t at = size(expert_of_[size(place)]) * size(hidden);
    if (!experts.gate_bias.empty()) kernels::kernels().add(experts.gate_bias.data() + at, hidden, gate);
    if (!experts.up_bias.empty()) kernels::kernels().add(experts.up_bias.data() + at, hidden, up);
    if (config_.clamped)
      clamped_silu(gate, up, hidden);
    else
      kernels::kernels().silu_mul(gate, up, hidden, gate);
  });
}

void ExpertRunner::add_up(const Experts& experts, int rows, FloatRows& out, ThreadPool& pool) {
  for_each(rows, config_.used * width_, pool, [&](int row) {
    float* sum = out.row(row);
    std::fill_n(sum, width_, 0.0f);
    for (std::size_t i = size(row * config_.used); i < size((row + 1) * config_.used); ++i) {
      float* given = narrow_.row(places_[i]);
      if (!experts.down_bias.empty())
        kernels::kernels().add(experts.down_bias.data() + size(choices_[i].expert) * size(width_), width_, given);
      const float weight = choices_[i].weight;
      for (int c = 0; c < width_; ++c) sum[c] += weight * given[c];
    }
  });
}

void ExpertRunner::run(const Experts& experts, int layer, const FloatRows& h, const FloatRows& logits, int rows,
                       FloatRows& out, kernels::Activations& activations, ThreadPool& pool, Profile* profile,
                       Listener* listener) {
  const bool alone = rows == 1 && listener == nullptr && experts.gate_up.front().order().empty();
  {
    const Timed timed(profile, Operation::route, layer);
    choose(experts, logits, rows, pool);
    group(rows);
    if (!alone) {
      gather(h, rows, pool);
      tell(experts.gate_up, narrow_, listener);
      reorder(experts.gate_up, narrow_, pool);
    }
  }
  {
    const Timed timed(profile, Operation::quantize, layer);
    const kernels::Forms forms = experts.gate_up.front().forms();
    if (alone)
      activations.assign(h.data(), h.ld, 1, width_, forms, pool);
    else
      activations.assign_groups(narrow_.data(), narrow_.ld, group_rows_, config_.count, width_, forms, pool);
  }
  multiply(Operation::gate_up, layer, experts.gate_up, alone, activations, wide_, pool, profile);
  {
    const Timed timed(profile, Operation::activation, layer);
    activate(experts, pool);
    tell(experts.down, wide_, listener);
    reorder(experts.down, wide_, pool);
  }
  {
    const Timed timed(profile, Operation::quantize, layer);
    activations.assign_groups(wide_.data(), wide_.ld, group_rows_, config_.count, config_.hidden,
                              experts.down.front().forms(), pool);
  }
  multiply(Operation::down, layer, experts.down, false, activations, narrow_, pool, profile);
  const Timed timed(profile, Operation::add_up, layer);
  add_up(experts, rows, out, pool);
}

}  // namespace ashlar::models
