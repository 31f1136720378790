#include "models/formats/hf_folder.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <map>
#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include "base/log.h"
#include "models/formats/gguf_writer.h"
#include "models/formats/hf_encoder.h"
#include "models/formats/hf_keys.h"
#include "models/formats/hf_pooling.h"
#include "models/formats/hf_tensors.h"
#include "models/mix.h"

namespace ashlar::models {
namespace {

using kernels::Type;

// The tensors of the folder, and those that config.json gives. Owns their names.
class FolderTensors final : public gguf::Assembly {
 public:
  FolderTensors(safetensors::Checkpoint weights, std::string place)
      : weights_(std::move(weights)), place_(std::move(place)) {}

  const safetensors::Checkpoint& weights() const { return weights_; }
  std::vector<MappedFile> take_shards() { return weights_.take_shards(); }

  void add(Renamed tensor) { tensors_.push_back({std::move(tensor), {}}); }
  void add(std::string name, std::vector<float> values) {
    if (values.empty()) return;
    Renamed tensor{.name = std::move(name)};
    tensor.stored.shape = {static_cast<std::int64_t>(values.size())};
    tensors_.push_back({std::move(tensor), std::move(values)});
  }

  // After the last add().
  std::vector<gguf::Tensor> list() {
    std::vector<gguf::Tensor> list;
    for (std::size_t i = 0; i < tensors_.size(); ++i) {
      const auto& [renamed, values] = tensors_[i];
      by_name_[renamed.name] = i;
      list.push_back(renamed.tensor());
      if (!values.empty() || !renamed.as_it_lies()) continue;
      list.back().data = renamed.stored.from.front()->data;
      list.back().part = renamed.stored.from.front()->shard;
    }
    return list;
  }

  // Of most bytes; of a type that no GGUF file has, there is none.
  std::optional<std::uint32_t> file_type() const {
    std::map<Type, std::uint64_t> bytes;
    for (const Entry& entry : tensors_) bytes[entry.tensor.type] += entry.tensor.tensor().bytes();
    const auto most = std::ranges::max_element(bytes, {}, [](const auto& one) { return one.second; });
    const Mix* mix = most == bytes.end() ? nullptr : find_mix(kernels::type_info(most->first).name);
    if (mix == nullptr) return std::nullopt;
    return static_cast<std::uint32_t>(mix->file_type);
  }

  Status make(const gguf::Tensor& tensor, std::span<std::byte> room) const override {
    const Entry& entry = of(tensor);
    if (entry.values.empty()) return entry.tensor.make(room);
    std::memcpy(room.data(), entry.values.data(), room.size());
    return {};
  }
  std::vector<std::span<const std::byte>> sources(const gguf::Tensor& tensor) const override {
    std::vector<std::span<const std::byte>> out;
    for (const safetensors::Tensor* from : of(tensor).tensor.stored.from) out.push_back(from->data);
    return out;
  }

 private:
  struct Entry {
    Renamed tensor;
    std::vector<float> values;  // of a tensor that no shard has
  };
  const Entry& of(const gguf::Tensor& tensor) const {
    const auto found = by_name_.find(tensor.name);
    CHECK(found != by_name_.end(), "a tensor comes back to the file that it is of");
    return tensors_[found->second];
  }

  safetensors::Checkpoint weights_;
  std::string place_;
  std::vector<Entry> tensors_;
  std::map<std::string_view, std::size_t> by_name_;
};

Result<std::vector<std::byte>> bytes_of(const gguf::Writer& keys) {
  const std::string text = TRY(keys.bytes());
  const auto* begin = reinterpret_cast<const std::byte*>(text.data());
  return std::vector<std::byte>(begin, begin + text.size());
}

// Some publishers' vocabularies have tokens of a picture or a sound behind those that the embedding has.
Status check_vocabulary(const text::Vocabulary& v, int rows, const std::string& folder) {
  const auto beyond = std::span(v.types).subspan(std::min(v.types.size(), static_cast<std::size_t>(rows)));
  if (v.tokens.size() <= static_cast<std::size_t>(rows)) return {};
  const bool added = v.types.size() == v.tokens.size() &&
                     std::ranges::all_of(beyond, [](text::TokenType type) { return type != text::TokenType::normal; });
  if (!added)
    return Error{Code::corrupt,
                 fmt::format("{}: the tokenizer has {} tokens, config.json says {}", folder, v.tokens.size(), rows)};
  log::warn("tokens_left_out", {{"folder", folder},
                                {"tokens", v.tokens.size() - static_cast<std::size_t>(rows)},
                                {"why", "the model has no rows for these added tokens"}});
  return {};
}

// How a decoder reads texts, if it is made for that.
Result<std::optional<Pooling>> decoder_pooling(const std::string& folder, HfTask task) {
  if (task == HfTask::classify) return Pooling::rank;
  const auto pooling = TRY(open_hf_pooling(folder));
  return pooling || task == HfTask::generate ? pooling : Pooling::last;
}

// What is made of the last layer's rows: a classifier needs its matrix; without one, a model that generates must say
// that the embedding takes its place.
Status check_output(const HfConfig& hf, std::span<const Stored> tensors, const std::string& folder) {
  const auto has = [&](std::string_view name) {
    return std::ranges::any_of(tensors, [&](const Stored& one) { return one.name == name; });
  };
  if (hf.task == HfTask::classify && !has("score.weight"))
    return Error{Code::corrupt, fmt::format("{}: there is no score.weight, which a classifier has", folder)};
  if (hf.tied_embedding || hf.task != HfTask::generate || has("lm_head.weight")) return {};
  return Error{Code::corrupt, fmt::format("{}: there is no lm_head.weight, and config.json does not say that the "
                                          "embedding takes its place (tie_word_embeddings)",
                                          folder)};
}

Result<gguf::File> assemble(const std::string& folder, const gguf::Writer& keys,
                            std::shared_ptr<FolderTensors> tensors) {
  auto list = tensors->list();
  return gguf::File::assemble(folder, TRY(bytes_of(keys)), tensors->take_shards(), std::move(list), tensors);
}

Result<gguf::File> open_encoder_folder(const std::string& folder, const HfEncoder& encoder, RowsFor whom) {
  const int rows = encoder.config.shape.vocabulary;
  const FolderText text = TRY(read_folder_text(folder));
  TRY(check_vocabulary(text.vocabulary, rows, folder));
  auto tensors = std::make_shared<FolderTensors>(TRY(safetensors::Checkpoint::open(folder)), folder);
  for (Stored& stored : TRY(stored_tensors(tensors->weights(), HfConfig{}, whom))) {
    if (!stored.order.empty() || stored.kept != nullptr)
      return Error{Code::unsupported,
                   fmt::format("{}: tensor {} has columns in an order of its own or kept apart, which encoders here do "
                               "not take",
                               folder, gguf::quoted(stored.name))};
    if (auto renamed = TRY(rename_encoder(std::move(stored), encoder, folder))) tensors->add(std::move(*renamed));
  }
  gguf::Writer keys;
  add_encoder_keys(encoder, tensors->file_type(), folder, keys);
  add_vocabulary_keys(text, rows, keys);
  return assemble(folder, keys, std::move(tensors));
}

}  // namespace

Result<gguf::File> open_folder(const std::string& folder, RowsFor whom) {
  if (const auto encoder = TRY(open_hf_encoder(folder))) return open_encoder_folder(folder, *encoder, whom);
  const HfConfig hf = TRY(open_hf_config(folder));
  const Shape& shape = hf.config.shape;
  FolderText text = TRY(read_folder_text(folder));
  if (text.vocabulary.bos < 0 && hf.bos) text.vocabulary.bos = *hf.bos;
  TRY(check_vocabulary(text.vocabulary, shape.vocabulary, folder));
  auto tensors = std::make_shared<FolderTensors>(TRY(safetensors::Checkpoint::open(folder)), folder);
  tensors->add("rope_freqs.weight", hf.rope_factors);
  tensors->add("rope_factors_long.weight", hf.long_factors);
  tensors->add("rope_factors_short.weight", hf.short_factors);
  std::vector<Stored> stored_list = TRY(stored_tensors(tensors->weights(), hf, whom));
  TRY(check_output(hf, stored_list, folder));
  for (Stored& stored : stored_list) tensors->add(TRY(rename(std::move(stored), shape, folder)));
  gguf::Writer keys;
  add_config_keys(hf, tensors->file_type(), folder, keys);
  add_vocabulary_keys(text, shape.vocabulary, keys);
  if (const auto pooling = TRY(decoder_pooling(folder, hf.task)))
    keys.add(fmt::format("{}.pooling_type", shape.architecture), static_cast<std::uint32_t>(*pooling));
  if (!hf.config.labels.empty())
    keys.add(fmt::format("{}.classifier.output_labels", shape.architecture),
             std::span<const std::string>(hf.config.labels));
  return assemble(folder, keys, std::move(tensors));
}

Result<gguf::File> open_folder_text(const std::string& folder) {
  gguf::Writer keys;
  add_vocabulary_keys(TRY(read_folder_text(folder)), 0, keys);
  return gguf::File::in_memory(TRY(bytes_of(keys)), folder);
}

}  // namespace ashlar::models
