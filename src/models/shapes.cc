#include "models/shapes.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstring>
#include <deque>
#include <map>
#include <numbers>

#include "models/architecture.h"
#include "models/formats/gguf_writer.h"
#include "models/mix.h"
#include "models/random_weights.h"
#include "models/transformer.h"

namespace ashlar::models {
namespace {

constexpr double kDeviation = 0.02;  // of random weights

struct KnownShape {
  std::string_view name, architecture;
  int layers, width, hidden, heads, kv_heads, head_dim, vocabulary;
  bool tied;  // the embedding is the output matrix too
  int context;
  float rope_base, rms_epsilon;
  double llama3_factor = 0;  // rope frequencies are stretched as Llama 3.1 does it; 0: not
  int sliding_window = 0;
  int experts = 0, experts_used = 0;  // each of `hidden`; 0: none
};

// From the publishers' config.json.
constexpr KnownShape kShapes[] = {
    {"llama-3.2-1b", "llama", 16, 2048, 8192, 32, 8, 64, 128256, true, 131072, 5e5f, 1e-5f, 32},
    {"llama-3.2-3b", "llama", 28, 3072, 8192, 24, 8, 128, 128256, true, 131072, 5e5f, 1e-5f, 32},
    {"llama-3.1-8b", "llama", 32, 4096, 14336, 32, 8, 128, 128256, false, 131072, 5e5f, 1e-5f, 8},
    {"qwen2.5-0.5b", "qwen2", 24, 896, 4864, 14, 2, 64, 151936, true, 32768, 1e6f, 1e-6f},
    {"qwen2.5-1.5b", "qwen2", 28, 1536, 8960, 12, 2, 128, 151936, true, 32768, 1e6f, 1e-6f},
    {"qwen2.5-7b", "qwen2", 28, 3584, 18944, 28, 4, 128, 152064, false, 32768, 1e6f, 1e-6f},
    {"qwen3-0.6b", "qwen3", 28, 1024, 3072, 16, 8, 128, 151936, true, 40960, 1e6f, 1e-6f},
    {"qwen3-4b", "qwen3", 36, 2560, 9728, 32, 8, 128, 151936, true, 40960, 1e6f, 1e-6f},
    {"tinyllama-1.1b", "llama", 22, 2048, 5632, 32, 4, 64, 32000, false, 2048, 1e4f, 1e-5f},
    {"mistral-7b", "llama", 32, 4096, 14336, 32, 8, 128, 32000, false, 32768, 1e4f, 1e-5f, 0, 4096},
    {"mixtral-8x7b", "llama", 32, 4096, 14336, 32, 8, 128, 32000, false, 32768, 1e6f, 1e-5f, 0, 0, 8, 2},
    {"qwen3-30b-a3b", "qwen3moe", 48, 2048, 768, 32, 4, 128, 151936, false, 40960, 1e6f, 1e-6f, 0, 0, 128, 8},
};

// "qwen3-30b-a3b:4" is the first four layers of it.
Result<KnownShape> find_shape(std::string_view name) {
  const std::size_t colon = name.find(':');
  const auto found = std::ranges::find(kShapes, name.substr(0, colon), &KnownShape::name);
  if (found == std::end(kShapes))
    return Error{Code::invalid, fmt::format("no shape is called {}; known are {}", gguf::quoted(name),
                                            fmt::join(shape_names(), ", "))};
  KnownShape shape = *found;
  if (colon == std::string_view::npos) return shape;
  const std::string_view layers = name.substr(colon + 1);
  const auto read = std::from_chars(layers.data(), layers.data() + layers.size(), shape.layers);
  if (read.ec != std::errc() || read.ptr != layers.data() + layers.size() || shape.layers < 1 ||
      shape.layers > found->layers)
    return Error{Code::invalid,
                 fmt::format("{}: 1 to {} layers are expected behind the colon", gguf::quoted(name), found->layers)};
  return shape;
}

Result<const Mix*> need_mix(std::string_view name) {
  if (const Mix* mix = find_mix(name)) return mix;
  return Error{Code::invalid,
               fmt::format("no type is called {}; known are {}", gguf::quoted(name), fmt::join(mix_names(), ", "))};
}

void add_keys(const KnownShape& s, const Mix& mix, gguf::Writer& writer) {
  const auto key = [&](std::string_view part) { return fmt::format("{}.{}", s.architecture, part); };
  const auto size = [&](std::string_view part, int value) { writer.add(key(part), static_cast<std::uint32_t>(value)); };
  writer.add("general.architecture", s.architecture);
  writer.add("general.name", fmt::format("{} (random weights)", s.name));
  writer.add("general.file_type", static_cast<std::uint32_t>(mix.file_type));
  writer.add("general.quantization_version", std::uint32_t{2});
  size("block_count", s.layers);
  size("context_length", s.context);
  size("embedding_length", s.width);
  size("feed_forward_length", s.hidden);
  size("attention.head_count", s.heads);
  size("attention.head_count_kv", s.kv_heads);
  size("attention.key_length", s.head_dim);
  size("attention.value_length", s.head_dim);
  size("rope.dimension_count", s.head_dim);
  size("vocab_size", s.vocabulary);
  if (s.sliding_window > 0) size("attention.sliding_window", s.sliding_window);
  if (s.experts > 0) {
    size("expert_count", s.experts);
    size("expert_used_count", s.experts_used);
    size("expert_feed_forward_length", s.hidden);
  }
  writer.add(key("rope.freq_base"), s.rope_base);
  writer.add(key("attention.layer_norm_rms_epsilon"), s.rms_epsilon);
}

// What Llama 3.1 divides each pair's frequency by: 1 for the fast ones, `factor`
// for the slow ones (arXiv:2407.21783).
std::vector<float> llama3_factors(const KnownShape& s) {
  constexpr double kOriginalContext = 8192, kLowTurns = 1, kHighTurns = 4;
  std::vector<float> factors;
  for (int i = 0; i < s.head_dim / 2; ++i) {
    const double wavelength = 2 * std::numbers::pi * std::pow(static_cast<double>(s.rope_base), 2.0 * i / s.head_dim);
    const double turns = kOriginalContext / wavelength;
    const double smooth = std::clamp((turns - kLowTurns) / (kHighTurns - kLowTurns), 0.0, 1.0);
    factors.push_back(static_cast<float>(1 / ((1 - smooth) / s.llama3_factor + smooth)));
  }
  return factors;
}

// The tensors that a list needs, made when they are asked for. The same shape
// and mix give the same bytes.
class RandomSource final : public TensorSource {
 public:
  RandomSource(const KnownShape& known, const Mix& mix, const Shape& shape, const TensorList& list, ThreadPool& pool)
      : known_(known), name_(fmt::format("{} {}", known.name, mix.name)), pool_(pool) {
    for (const TensorList::Need& need : list.needs()) {
      const bool wanted = need.optional ? need.parts[0].name == "rope_freqs.weight" && known.llama3_factor > 0
                                        : need.otherwise.empty() || !known.tied;
      for (const TensorList::Rows& part : need.parts)
        if (wanted) add(part, need, mix, shape);
    }
  }

  const std::string& name() const override { return name_; }
  std::span<const gguf::Tensor> tensors() const override { return tensors_; }
  const gguf::Tensor* find(std::string_view name) const override {
    const auto found = std::ranges::find(tensors_, name, &gguf::Tensor::name);
    return found == tensors_.end() ? nullptr : &*found;
  }
  Result<std::span<const std::byte>> data(const gguf::Tensor& tensor) override;
  void release(const gguf::Tensor& tensor, bool again) override {
    if (!again) made_.erase(&tensor);
  }

  std::uint64_t bytes(const gguf::Tensor& tensor) const {
    return kernels::row_bytes(tensor.type, tensor.columns()) * static_cast<std::uint64_t>(tensor.rows());
  }

 private:
  void add(const TensorList::Rows& part, const TensorList::Need& need, const Mix& mix, const Shape& shape) {
    gguf::Tensor tensor;
    tensor.name = names_.emplace_back(part.name);
    const bool vector = need.columns == 0;
    tensor.rank = vector ? 1 : need.experts > 0 ? 3 : 2;
    tensor.dims[0] = vector ? part.rows : need.columns;
    tensor.dims[1] = vector ? 1 : part.rows;
    tensor.dims[2] = std::max(1, need.experts);
    if (need.use != TensorList::Use::vector && !need.exact) {
      const bool output = !need.otherwise.empty() || (need.use == TensorList::Use::embedding && known_.tied);
      int layer = -1;
      if (part.name.starts_with("blk.")) layer = std::atoi(part.name.c_str() + 4);
      tensor.type =
          choose_type(mix, shape, {.name = part.name, .layer = layer, .columns = need.columns, .output = output});
    }
    tensors_.push_back(tensor);
  }

  KnownShape known_;
  std::string name_;
  ThreadPool& pool_;
  std::deque<std::string> names_;
  std::vector<gguf::Tensor> tensors_;
  std::map<const gguf::Tensor*, kernels::HugeMemory> made_;
};

Result<std::span<const std::byte>> RandomSource::data(const gguf::Tensor& tensor) {
  kernels::HugeMemory& memory = made_[&tensor];
  const bool fresh = memory.bytes() == 0;
  if (fresh) memory = TRY(kernels::HugeMemory::allocate(bytes(tensor)));
  const std::span<std::byte> all(memory.data(), bytes(tensor));
  if (!fresh) return all;
  if (tensor.name == "rope_freqs.weight") {
    const std::vector<float> factors = llama3_factors(known_);
    std::memcpy(all.data(), factors.data(), all.size());
    return all;
  }
  fill_random(tensor.type, kDeviation, static_cast<std::uint64_t>(&tensor - tensors_.data()) + 1, all, pool_);
  if (tensor.name.ends_with("norm.weight")) {  // about 1
    for (std::size_t at = 0; at < all.size(); at += sizeof(float)) {
      float value;
      std::memcpy(&value, all.data() + at, sizeof value);
      value += 1;
      std::memcpy(all.data() + at, &value, sizeof value);
    }
  }
  return all;
}

// All that is decided before a weight is made.
struct Plan {
  KnownShape known;
  const Mix& mix;
  gguf::Writer keys;
  const Architecture* architecture;
  Config config;
};

Result<Plan> make_plan(std::string_view shape, std::string_view type) {
  Plan plan{.known = TRY(find_shape(shape)), .mix = *TRY(need_mix(type))};
  add_keys(plan.known, plan.mix, plan.keys);
  const std::string bytes = TRY(plan.keys.bytes());
  const auto view = std::as_bytes(std::span(bytes));
  const gguf::File file = TRY(gguf::File::in_memory({view.begin(), view.end()}, std::string(plan.known.name)));
  plan.architecture = find_architecture(plan.known.architecture);
  CHECK(plan.architecture != nullptr, "known shapes have known architectures");
  plan.config = TRY(plan.architecture->configure(Keys(file, plan.known.architecture)));
  plan.config.shape.vocabulary = plan.known.vocabulary;
  return plan;
}

std::unique_ptr<RandomSource> make_source(const Plan& plan, ThreadPool& pool) {
  Weights unused;
  unused.layers.resize(static_cast<std::size_t>(plan.config.shape.layers));
  TensorList list;
  plan.architecture->list_tensors(plan.config, unused, list);
  return std::make_unique<RandomSource>(plan.known, plan.mix, plan.config.shape, list, pool);
}

// Copies the tokenizer's keys, with the lists that have an entry for each token
// made as long as the embedding has rows.
Status copy_vocabulary(const gguf::File& file, const KnownShape& known, gguf::Writer& writer) {
  const auto wanted = static_cast<std::size_t>(known.vocabulary);
  auto vocabulary = TRY(read_vocabulary(file));
  const std::size_t have = vocabulary.tokens.size();
  if (have > wanted)
    return Error{Code::invalid,
                 fmt::format("{}: has {} tokens, but {} has room for {}", file.path(), have, known.name, wanted)};
  for (const gguf::Key& key : file.keys()) {
    if (!key.name.starts_with("tokenizer.")) continue;
    const bool for_each_token = key.name == "tokenizer.ggml.tokens" || key.name == "tokenizer.ggml.scores" ||
                                key.name == "tokenizer.ggml.token_type";
    if (!for_each_token || have == wanted) writer.add(key.name, key.value);
  }
  if (have == wanted) return {};
  for (std::size_t i = have; i < wanted; ++i) vocabulary.tokens.push_back(fmt::format("[PAD{}]", i));
  writer.add("tokenizer.ggml.tokens", std::span<const std::string>(vocabulary.tokens));
  if (!vocabulary.scores.empty()) {
    vocabulary.scores.resize(wanted, 0.0f);
    writer.add("tokenizer.ggml.scores", std::span<const float>(vocabulary.scores));
  }
  if (!vocabulary.types.empty()) {
    vocabulary.types.resize(wanted, text::TokenType::unused);
    std::vector<std::int32_t> types;
    for (const text::TokenType type : vocabulary.types) types.push_back(static_cast<std::int32_t>(type));
    writer.add("tokenizer.ggml.token_type", std::span<const std::int32_t>(types));
  }
  return {};
}

}  // namespace

std::vector<std::string_view> shape_names() {
  std::vector<std::string_view> names;
  for (const KnownShape& shape : kShapes) names.push_back(shape.name);
  return names;
}

Result<LoadedModel> random_model(std::string_view shape, std::string_view type, const LoadOptions& options,
                                 ThreadPool& pool) {
  Plan plan = TRY(make_plan(shape, type));
  auto source = make_source(plan, pool);
  LoadedModel loaded;
  loaded.shape = plan.config.shape;
  loaded.facts.name = plan.known.name;
  loaded.facts.architecture = plan.known.architecture;
  loaded.facts.file_type = plan.mix.name;
  for (const gguf::Tensor& tensor : source->tensors()) {
    const std::uint64_t size = source->bytes(tensor);
    loaded.facts.parameters += tensor.elements();
    loaded.facts.bytes.count += size;
    loaded.facts.type_bytes[std::string(kernels::type_info(tensor.type).name)].count += size;
  }
  if (options.weights)
    loaded.model =
        TRY(Transformer::create(*plan.architecture, std::move(plan.config), std::move(source), options.max_rows, pool));
  return loaded;
}

Status write_random_model(std::string_view shape, std::string_view type, const std::string& vocabulary_path,
                          const std::string& out_path, ThreadPool& pool) {
  Plan plan = TRY(make_plan(shape, type));
  const gguf::File vocabulary = TRY(gguf::File::open(vocabulary_path));
  TRY(copy_vocabulary(vocabulary, plan.known, plan.keys));
  const auto source = make_source(plan, pool);
  const gguf::Tensor* before = nullptr;
  for (const gguf::Tensor& tensor : source->tensors()) {
    std::vector<std::int64_t> dims(tensor.dims.begin(), tensor.dims.begin() + tensor.rank);
    plan.keys.add_tensor(tensor.name, tensor.type, std::move(dims), source->bytes(tensor), [&] {
      if (before != nullptr) source->release(*before, false);
      before = &tensor;
      return source->data(tensor);
    });
  }
  return plan.keys.write(out_path);
}

}  // namespace ashlar::models
