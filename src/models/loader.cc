#include "models/loader.h"

#include <fmt/format.h>

#include <algorithm>
#include <filesystem>
#include <numeric>

#include "models/architecture.h"
#include "models/encoder_model.h"
#include "models/formats/hf_folder.h"
#include "models/mix.h"
#include "models/transformer.h"

namespace ashlar::models {
namespace {

class FileSource final : public TensorSource {
 public:
  FileSource(std::shared_ptr<const gguf::File> file, const std::optional<PackedCache>& cache,
             PackedImage::Origin& origin)
      : file_(std::move(file)), cache_(cache), origin_(origin) {}
  const std::string& name() const override { return file_->path(); }
  std::span<const gguf::Tensor> tensors() const override { return file_->tensors(); }
  const gguf::Tensor* find(std::string_view name) const override { return file_->find_tensor(name); }
  Result<std::span<const std::byte>> data(const gguf::Tensor& tensor) override {
    if (!tensor.data.empty()) return tensor.data;
    return file_->read(tensor, made_[&tensor]);
  }
  // Packed weights need their pages no more; looked-up rows come back from the file as they are read.
  void release(const gguf::Tensor& tensor, bool again) override {
    file_->release(tensor);
    if (again) file_->expect_few_reads(tensor);
    if (!again) made_.erase(&tensor);
  }

  Result<std::shared_ptr<PackedImage>> image(std::span<const std::size_t> sections, ThreadPool& pool) override {
    const Bytes bytes{std::accumulate(sections.begin(), sections.end(), std::uint64_t{0})};
    if (cache_ && cache_->wants(bytes)) key_ = PackedCache::key(*file_);
    std::shared_ptr<PackedImage> image;
    if (key_) image = cache_->find(cache_->path(*file_, *key_), *key_, sections, pool);
    if (image == nullptr) image = TRY(PackedImage::allocate(sections));
    origin_ = image->origin();
    if (origin_ == PackedImage::Origin::mapped) mapped_ = {image->bytes().size()};
    return image;
  }
  Bytes mapped() const override { return mapped_; }
  void filled(const std::shared_ptr<PackedImage>& image, ThreadPool& pool) override {
    if (!key_) return;
    image->seal(*key_, pool);
    keeper_.emplace(*cache_, cache_->path(*file_, *key_), image);
  }

 private:
  std::shared_ptr<const gguf::File> file_;
  std::map<const gguf::Tensor*, std::vector<std::byte>> made_;  // bytes that lie in no file
  std::optional<PackedCache> cache_;
  std::optional<PackedKey> key_;
  PackedImage::Origin& origin_;  // told while the weights are loaded
  Bytes mapped_;
  std::optional<PackedKeeper> keeper_;
};

// As llama.cpp's converter names what a publisher's generation_config.json advises.
Result<SamplingAdvice> read_sampling(const gguf::File& file) {
  const auto number = [&](std::string_view key, double least, double most) -> Result<std::optional<double>> {
    const std::string full = fmt::format("general.sampling.{}", key);
    const auto found = TRY(file.maybe<double>(full));
    if (found && !(*found >= least && *found <= most))
      return Error{Code::corrupt,
                   fmt::format("{}: key '{}' is {}; {} to {} are possible", file.path(), full, *found, least, most)};
    return found;
  };
  SamplingAdvice advice;
  advice.temperature = TRY(number("temp", 0, 100));
  advice.top_p = TRY(number("top_p", 0, 1));
  advice.min_p = TRY(number("min_p", 0, 1));
  advice.repetition_penalty = TRY(number("penalty_repeat", 0, 100));
  if (const auto top_k = TRY(number("top_k", -1, INT32_MAX))) advice.top_k = static_cast<int>(*top_k);
  return advice;
}

Result<ModelFacts> read_facts(const gguf::File& file) {
  ModelFacts facts;
  facts.name = TRY(file.get<std::string_view>("general.name", ""));
  if (facts.name.empty()) facts.name = std::filesystem::path(file.path()).stem().string();
  facts.architecture = TRY(file.get<std::string_view>("general.architecture", ""));
  facts.bytes = {file.bytes()};
  facts.sampling = TRY(read_sampling(file));
  for (const gguf::Tensor& tensor : file.tensors()) {
    facts.parameters += tensor.elements();
    facts.type_bytes[std::string(kernels::type_info(tensor.type).name)].count += tensor.bytes();
  }
  const auto file_type = TRY(file.get<std::int64_t>("general.file_type", -1));
  if (const Mix* mix = find_mix(file_type))
    facts.file_type = mix->name;
  else if (!facts.type_bytes.empty())
    facts.file_type =
        std::ranges::max_element(facts.type_bytes, {}, [](const auto& entry) { return entry.second; })->first;
  return facts;
}

// The embedding's rows, which are the vocabulary, against the list of tokens.
Status take_vocabulary_size(const gguf::File& file, const text::Vocabulary& vocabulary, Shape& shape) {
  constexpr std::int64_t kMost = 1 << 24;
  const gguf::Tensor* embedding = file.find_tensor("token_embd.weight");
  if (embedding == nullptr)
    return Error{Code::corrupt, fmt::format("{}: tensor 'token_embd.weight' is missing", file.path())};
  if (embedding->rows() > kMost)
    return Error{Code::corrupt, fmt::format("{}: tensor 'token_embd.weight' is {}; at most {} tokens are possible",
                                            file.path(), gguf::dims_text(*embedding), kMost)};
  shape.vocabulary = static_cast<int>(embedding->rows());
  if (vocabulary.tokens.size() > static_cast<std::size_t>(shape.vocabulary))
    return Error{Code::corrupt, fmt::format("{}: the vocabulary has {} tokens, but tensor 'token_embd.weight' is {}",
                                            file.path(), vocabulary.tokens.size(), gguf::dims_text(*embedding))};
  return {};
}

Result<Config> read_model_config(const gguf::File& file, const ModelFacts& facts) {
  const Architecture* architecture = find_architecture(facts.architecture);
  const EncoderArchitecture* encoder = find_encoder(facts.architecture);
  if (architecture == nullptr && encoder == nullptr)
    return Error{Code::unsupported,
                 fmt::format("{}: the architecture {} is not supported; {} are", file.path(),
                             gguf::quoted(facts.architecture), fmt::join(architecture_names(), ", "))};
  const auto configure = architecture != nullptr ? architecture->configure : encoder->configure;
  return configure(Keys(file, facts.architecture));
}

}  // namespace

Result<gguf::File> open_file(const std::string& path) {
  std::error_code unknown;
  return std::filesystem::is_directory(path, unknown) ? open_folder(path) : gguf::File::open(path);
}

Result<gguf::File> open_text(const std::string& path) {
  std::error_code unknown;
  return std::filesystem::is_directory(path, unknown) ? open_folder_text(path) : gguf::File::open(path);
}

Result<LoadedModel> load(const std::string& path, const LoadOptions& options, ThreadPool& pool) {
  return load(TRY(open_file(path)), options, pool);
}

Result<LoadedModel> load(gguf::File file, const LoadOptions& options, ThreadPool& pool) {
  LoadedModel loaded = TRY(open_model(std::move(file)));
  if (options.weights && loaded.config) TRY(load_weights(loaded, options, pool));
  return loaded;
}

Result<LoadedModel> open_model(gguf::File opened) {
  LoadedModel loaded;
  loaded.file = std::make_shared<const gguf::File>(std::move(opened));
  const gguf::File& file = *loaded.file;
  loaded.facts = TRY(read_facts(file));
  const bool has_vocabulary = file.find("tokenizer.ggml.tokens") != nullptr;
  if (has_vocabulary) loaded.vocabulary = TRY(read_vocabulary(file));
  loaded.templates = TRY(read_chat_templates(file));
  loaded.shape.architecture = loaded.facts.architecture;
  loaded.shape.vocabulary = static_cast<int>(loaded.vocabulary.tokens.size());
  if (file.tensors().empty()) {
    if (has_vocabulary) return loaded;
    return Error{Code::corrupt, fmt::format("{}: holds neither tensors nor a vocabulary", file.path())};
  }
  loaded.config = TRY(read_model_config(file, loaded.facts));
  TRY(take_vocabulary_size(file, loaded.vocabulary, loaded.config->shape));
  loaded.shape = loaded.config->shape;
  return loaded;
}

Status load_weights(LoadedModel& loaded, const LoadOptions& options, ThreadPool& pool) {
  CHECK(loaded.config.has_value(), "a file with tensors has a configuration");
  auto source = std::make_unique<FileSource>(loaded.file, options.packed_cache, loaded.weights);
  const Config& config = *loaded.config;
  if (const EncoderArchitecture* encoder = find_encoder(loaded.facts.architecture))
    loaded.encoder = TRY(EncoderModel::create(
        *encoder, config, std::move(source),
        std::max(options.max_rows, std::min(config.shape.context, options.max_text_tokens)), pool));
  else
    loaded.model = TRY(Transformer::create(*find_architecture(loaded.facts.architecture), config, std::move(source),
                                           options.max_rows, pool));
  loaded.file->release();  // what was read on the way
  return {};
}

Status check_tensors(const LoadedModel& model) {
  CHECK(model.config.has_value(), "a file with tensors has a configuration");
  PackedImage::Origin origin{};
  const FileSource source(model.file, std::nullopt, origin);
  const Shape& shape = model.config->shape;
  Weights weights;
  EncoderWeights encoder_weights;
  TensorList list;
  if (const EncoderArchitecture* encoder = find_encoder(model.facts.architecture)) {
    encoder_weights.layers.resize(static_cast<std::size_t>(shape.layers));
    encoder->list_tensors(*model.config, source, encoder_weights, list);
  } else {
    weights.layers.resize(static_cast<std::size_t>(shape.layers));
    find_architecture(model.facts.architecture)->list_tensors(*model.config, weights, list);
  }
  list_head(source, shape.width, encoder_weights.head, list);
  return list.check(source);
}

}  // namespace ashlar::models
