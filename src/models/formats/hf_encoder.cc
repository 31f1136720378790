#include "models/formats/hf_encoder.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <initializer_list>
#include <span>

#include "base/json_full.h"
#include "base/mapped_file.h"

namespace ashlar::models {
namespace {

namespace fs = std::filesystem;
using kernels::Type;

constexpr std::size_t kMaxFileBytes = 1 << 20;
constexpr int kMostVocabulary = 1 << 24, kMostTypes = 256;
constexpr double kMostEpsilon = 1;

// One JSON file of the folder.
class Settings {
 public:
  // Empty: there is no such file.
  static Result<std::optional<Settings>> open(const fs::path& path) {
    const auto file = MappedFile::open(path.string());
    if (!file && file.error().code == Code::not_found) return std::optional<Settings>();
    if (!file) return std::unexpected(file.error());
    const auto bytes = file->bytes();
    if (bytes.size() > kMaxFileBytes)
      return Error{Code::corrupt,
                   fmt::format("{}: {} bytes; at most {} are expected", path.string(), bytes.size(), kMaxFileBytes)};
    auto json = parse_json({reinterpret_cast<const char*>(bytes.data()), bytes.size()},
                           {.depth = 16, .members = 4096, .elements = 4096});
    if (!json) return Error{Code::corrupt, fmt::format("{}: {}", path.string(), json.error().message)};
    return Settings(std::move(*json), path.string());
  }

  const Json& json() const { return json_; }
  Error bad(std::string_view name, std::string_view what, Code code = Code::corrupt) const {
    return Error{code, fmt::format("{}: \"{}\" {}", path_, name, what)};
  }
  // nullptr: absent or null.
  const Json* find(std::string_view name) const {
    if (!json_.is_object()) return nullptr;
    const auto at = json_.find(name);
    return at == json_.end() || at->is_null() ? nullptr : &*at;
  }
  std::string text(std::string_view name, std::string_view otherwise) const {
    const Json* value = find(name);
    return value != nullptr && value->is_string() ? value->get<std::string>() : std::string(otherwise);
  }
  bool flag(std::string_view name, bool otherwise) const {
    const Json* value = find(name);
    return value != nullptr && value->is_boolean() ? value->get<bool>() : otherwise;
  }
  Result<int> whole(std::string_view name, int least, int most, std::optional<int> otherwise = std::nullopt) const {
    const Json* value = find(name);
    if (value == nullptr && otherwise) return *otherwise;
    if (value == nullptr) return bad(name, "is missing");
    if (!value->is_number_integer()) return bad(name, "is not a whole number");
    const bool huge = value->is_number_unsigned() && value->get<std::uint64_t>() > INT64_MAX;
    const std::int64_t number = huge ? INT64_MAX : value->get<std::int64_t>();
    if (number < least || number > most)
      return bad(name, fmt::format("is {}; {} to {} are possible", number, least, most));
    return static_cast<int>(number);
  }
  Result<double> number(std::string_view name, double otherwise, double most) const {
    const Json* value = find(name);
    if (value == nullptr) return otherwise;
    const double number = value->is_number() ? value->get<double>() : std::nan("");
    if (!(number > 0 && number <= most)) return bad(name, fmt::format("is not a number above 0 and up to {}", most));
    return number;
  }

 private:
  Settings(Json json, std::string path) : json_(std::move(json)), path_(std::move(path)) {}
  Json json_;
  std::string path_;
};

struct Family {
  std::string_view model_type;
  bool padded_positions = false;  // positions count from behind the padding token's id
};
constexpr Family kFamilies[] = {{"bert"}, {"roberta", true}, {"xlm-roberta", true}, {"camembert", true}};

Status finish_shape(const Settings& settings, std::string_view heads_name, Shape& s) {
  s.kv_heads = s.heads;
  if (s.width % s.heads != 0)
    return settings.bad(heads_name, fmt::format("is {}, which does not divide the width {}", s.heads, s.width));
  s.head_dim = s.width / s.heads;
  if (s.head_dim % 8 != 0 || s.head_dim > kMostHeadDim)
    return settings.bad(
        heads_name, fmt::format("makes heads of {}; multiples of 8 up to {} are supported", s.head_dim, kMostHeadDim),
        Code::unsupported);
  return {};
}

// {"0": "LABEL_0", ...}; names that a library made up say nothing.
std::vector<std::string> read_labels(const Settings& settings) {
  std::vector<std::string> labels;
  const Json* names = settings.find("id2label");
  if (names == nullptr || !names->is_object()) return labels;
  for (std::size_t i = 0; i < names->size(); ++i) {
    const auto found = names->find(std::to_string(i));
    if (found == names->end() || !found->is_string()) return {};
    labels.push_back(found->get<std::string>());
  }
  const bool made_up = std::ranges::all_of(labels, [](const std::string& name) { return name.starts_with("LABEL_"); });
  return made_up ? std::vector<std::string>() : labels;
}

Result<HfEncoder> read_bert(const Settings& settings, const Family& family) {
  HfEncoder out;
  Shape& s = out.config.shape;
  s.architecture = "bert";
  s.layers = TRY(settings.whole("num_hidden_layers", 1, kMostLayers));
  s.width = TRY(settings.whole("hidden_size", 1, kMostWidth));
  s.hidden = TRY(settings.whole("intermediate_size", 1, kMostHidden));
  s.heads = TRY(settings.whole("num_attention_heads", 1, kMostHeads));
  s.vocabulary = TRY(settings.whole("vocab_size", 1, kMostVocabulary));
  s.context = TRY(settings.whole("max_position_embeddings", 1, kMostContext));
  TRY(finish_shape(settings, "num_attention_heads", s));
  if (family.padded_positions) {
    out.first_position = 1 + TRY(settings.whole("pad_token_id", 0, s.context - 2, 1));
    s.context -= out.first_position;
  }
  const std::string positions = settings.text("position_embedding_type", "absolute");
  if (positions != "absolute")
    return settings.bad("position_embedding_type", fmt::format("is {}; absolute is supported", gguf::quoted(positions)),
                        Code::unsupported);
  EncoderConfig encoder{.token_types = TRY(settings.whole("type_vocab_size", 1, kMostTypes, 2))};
  const std::string activation = settings.text("hidden_act", "gelu");
  if (activation == "gelu_new" || activation == "gelu_pytorch_tanh")
    encoder.activation = EncoderConfig::Activation::gelu_tanh;
  else if (activation != "gelu")
    return settings.bad("hidden_act", fmt::format("is {}; gelu and gelu_new are supported", gguf::quoted(activation)),
                        Code::unsupported);
  out.config.encoder = encoder;
  out.config.rms_epsilon = static_cast<float>(TRY(settings.number("layer_norm_eps", 1e-12, kMostEpsilon)));
  return out;
}

Result<HfEncoder> read_nomic(const Settings& settings) {
  HfEncoder out;
  Shape& s = out.config.shape;
  s.architecture = "nomic-bert";
  s.layers = TRY(settings.whole("n_layer", 1, kMostLayers));
  s.width = TRY(settings.whole("n_embd", 1, kMostWidth));
  s.hidden = TRY(settings.whole("n_inner", 1, kMostHidden, 4 * s.width));
  s.heads = TRY(settings.whole("n_head", 1, kMostHeads));
  s.vocabulary = TRY(settings.whole("vocab_size", 1, kMostVocabulary));
  s.context = TRY(settings.whole("n_positions", 1, kMostContext));
  // What lies beyond what it was trained for needs a stretched rope.
  s.context = std::min(s.context, TRY(settings.whole("max_trained_positions", 1, kMostContext, 2048)));
  TRY(finish_shape(settings, "n_head", s));
  const auto refuse = [&](std::string_view name, std::string_view what) {
    return settings.bad(name, fmt::format("is not {}, which is not supported", what), Code::unsupported);
  };
  if (TRY(settings.whole("moe_every_n_layers", 0, kMostLayers, 0)) != 0) return refuse("moe_every_n_layers", "0");
  if (settings.text("activation_function", "") != "swiglu") return refuse("activation_function", "\"swiglu\"");
  for (const std::string_view name :
       {"prenorm", "qkv_proj_bias", "mlp_fc1_bias", "mlp_fc2_bias", "rotary_emb_interleaved"})
    if (settings.flag(name, false)) return refuse(name, "false");
  if (TRY(settings.number("rotary_emb_fraction", 1, 1)) != 1) return refuse("rotary_emb_fraction", "1");
  if (settings.find("rotary_emb_scale_base") != nullptr) return refuse("rotary_emb_scale_base", "null");
  out.config.rope.base = TRY(settings.number("rotary_emb_base", 10000, 1e30));
  out.config.rope.dims = s.head_dim;
  out.config.encoder = EncoderConfig{.token_types = TRY(settings.whole("type_vocab_size", 1, kMostTypes, 2))};
  out.config.rms_epsilon = static_cast<float>(TRY(settings.number("layer_norm_epsilon", 1e-12, kMostEpsilon)));
  return out;
}

struct Name {
  std::string_view theirs, ours;
};
constexpr Name kOutside[] = {{"embeddings.word_embeddings", "token_embd"},
                             {"embeddings.token_type_embeddings", "token_types"},
                             {"embeddings.position_embeddings", "position_embd"},
                             {"embeddings.LayerNorm", "token_embd_norm"},
                             {"emb_ln", "token_embd_norm"}};
// Of a classifier: RoBERTa's two layers, or BERT's pooler and one.
constexpr Name kHead[] = {{"classifier.dense", "cls"},
                          {"classifier.out_proj", "cls.output"},
                          {"pooler.dense", "cls"},
                          {"classifier", "cls.output"}};
constexpr Name kLayer[] = {{"attention.self.query", "attn_q"},
                           {"attention.self.key", "attn_k"},
                           {"attention.self.value", "attn_v"},
                           {"attention.output.dense", "attn_output"},
                           {"attention.output.LayerNorm", "attn_output_norm"},
                           {"intermediate.dense", "ffn_up"},
                           {"output.dense", "ffn_down"},
                           {"output.LayerNorm", "layer_output_norm"},
                           {"attn.Wqkv", "attn_qkv"},
                           {"attn.out_proj", "attn_output"},
                           {"norm1", "attn_output_norm"},
                           {"mlp.fc11", "ffn_up"},
                           {"mlp.fc12", "ffn_gate"},
                           {"mlp.fc2", "ffn_down"},
                           {"norm2", "layer_output_norm"}};

// A tensor that the model has beside what it reads texts with.
bool for_training(std::string_view name, bool classifies) {
  for (const std::string_view part : {"cls.predictions.", "cls.seq_relationship.", "lm_head.",
                                      "embeddings.position_ids", "embeddings.token_type_ids"})
    if (name.starts_with(part)) return true;
  return !classifies && (name.starts_with("pooler.") || name.starts_with("classifier."));
}

// Empty: none that the architecture has.
std::string encoder_name(std::string_view name) {
  std::string plain(name);
  // As the first checkpoints called a norm's two vectors.
  if (plain.ends_with(".gamma")) plain.replace(plain.size() - 6, 6, ".weight");
  if (plain.ends_with(".beta")) plain.replace(plain.size() - 5, 5, ".bias");
  const std::size_t dot = plain.rfind('.');
  if (dot == std::string::npos) return {};
  const std::string_view kind = std::string_view(plain).substr(dot), stem = std::string_view(plain).substr(0, dot);
  if (kind != ".weight" && kind != ".bias") return {};
  for (const std::span<const Name> names : {std::span<const Name>(kOutside), std::span<const Name>(kHead)})
    for (const Name& known : names)
      if (stem == known.theirs) return fmt::format("{}{}", known.ours, kind);
  for (const std::string_view prefix : {"encoder.layer.", "encoder.layers."}) {
    if (!stem.starts_with(prefix)) continue;
    int layer = -1;
    const char *begin = stem.data() + prefix.size(), *end = stem.data() + stem.size();
    const auto number = std::from_chars(begin, end, layer);
    if (number.ec != std::errc() || layer < 0 || number.ptr == end || *number.ptr != '.') return {};
    const std::string_view part(number.ptr + 1, end);
    for (const Name& known : kLayer)
      if (part == known.theirs) return fmt::format("blk.{}.{}{}", layer, known.ours, kind);
  }
  return {};
}

}  // namespace

Result<std::optional<HfEncoder>> open_hf_encoder(const std::string& folder) {
  const auto settings = TRY(Settings::open(fs::path(folder) / "config.json"));
  if (!settings) return Error{Code::not_found, fmt::format("{}: there is no config.json", folder)};
  const std::string type = settings->text("model_type", "");
  const auto family = std::ranges::find(kFamilies, type, &Family::model_type);
  const bool nomic = type == "nomic_bert";
  if (family == std::end(kFamilies) && !nomic) return std::optional<HfEncoder>();
  HfEncoder encoder = nomic ? TRY(read_nomic(*settings)) : TRY(read_bert(*settings, *family));
  encoder.config.attention_scale = 1 / std::sqrt(static_cast<float>(encoder.config.shape.head_dim));
  const Json* classes = settings->find("architectures");
  encoder.classifies = classes != nullptr && classes->is_array() && !classes->empty() && classes->front().is_string() &&
                       classes->front().get<std::string>().ends_with("ForSequenceClassification");
  encoder.config.pooling = TRY(open_hf_pooling(folder));
  if (encoder.classifies) {
    encoder.config.pooling = Pooling::rank;
    encoder.config.labels = read_labels(*settings);
  }
  return encoder;
}

Result<std::optional<Pooling>> open_hf_pooling(const std::string& folder) {
  const auto modules = TRY(Settings::open(fs::path(folder) / "modules.json"));
  if (!modules || !modules->json().is_array()) return std::optional<Pooling>();
  std::optional<Pooling> found;
  for (const Json& module : modules->json()) {
    const auto text_of = [&](const char* name) {
      const auto at = module.is_object() ? module.find(name) : module.end();
      return module.is_object() && at != module.end() && at->is_string() ? at->get<std::string>() : std::string();
    };
    const std::string type = text_of("type"), path = text_of("path");
    if (type.ends_with(".Transformer") || type.ends_with(".Normalize")) continue;
    if (!type.ends_with(".Pooling"))
      return modules->bad(
          "type", fmt::format("is {}; a Transformer, its Pooling and a Normalize are supported", gguf::quoted(type)),
          Code::unsupported);
    if (path.empty() || path.find('/') != std::string::npos || path.starts_with('.'))
      return modules->bad("path", "is not a folder beside modules.json");
    const auto pooling = TRY(Settings::open(fs::path(folder) / path / "config.json"));
    if (!pooling) return Error{Code::not_found, fmt::format("{}/{}: there is no config.json", folder, path)};
    constexpr std::pair<std::string_view, std::optional<Pooling>> kModes[] = {
        {"pooling_mode_cls_token", Pooling::cls},
        {"pooling_mode_mean_tokens", Pooling::mean},
        {"pooling_mode_lasttoken", Pooling::last},
        {"pooling_mode_max_tokens", std::nullopt},
        {"pooling_mode_mean_sqrt_len_tokens", std::nullopt},
        {"pooling_mode_weightedmean_tokens", std::nullopt}};
    for (const auto& [name, mode] : kModes) {
      if (!pooling->flag(name, false)) continue;
      if (!mode || found)
        return pooling->bad(name, "is true; one of the first token, the mean and the last token is supported",
                            Code::unsupported);
      found = mode;
    }
  }
  return found;
}

void add_encoder_keys(const HfEncoder& encoder, std::optional<std::uint32_t> file_type, const std::string& folder,
                      gguf::Writer& writer) {
  const Config& c = encoder.config;
  const Shape& s = c.shape;
  const auto full = [&](std::string_view key) { return fmt::format("{}.{}", s.architecture, key); };
  const auto number = [&](std::string_view key, int value) {
    writer.add(full(key), static_cast<std::uint32_t>(value));
  };
  writer.add("general.architecture", s.architecture);
  auto path = fs::absolute(folder).lexically_normal();
  if (path.filename().empty()) path = path.parent_path();  // "folder/"
  writer.add("general.name", path.filename().string());
  if (file_type) writer.add("general.file_type", *file_type);
  number("vocab_size", s.vocabulary);
  number("context_length", s.context);
  number("embedding_length", s.width);
  number("block_count", s.layers);
  number("feed_forward_length", s.hidden);
  number("attention.head_count", s.heads);
  writer.add(full("attention.layer_norm_epsilon"), c.rms_epsilon);
  writer.add(full("attention.causal"), false);
  if (c.pooling) number("pooling_type", static_cast<int>(*c.pooling));
  if (!c.labels.empty()) writer.add(full("classifier.output_labels"), std::span<const std::string>(c.labels));
  if (c.encoder->activation == EncoderConfig::Activation::gelu_tanh) writer.add(full("hidden_activation"), "gelu_new");
  if (s.architecture == "nomic-bert") writer.add(full("rope.freq_base"), static_cast<float>(c.rope.base));
  writer.add("tokenizer.ggml.token_type_count", static_cast<std::uint32_t>(c.encoder->token_types));
}

Result<std::optional<Renamed>> rename_encoder(Stored stored, const HfEncoder& encoder, std::string_view place) {
  const auto bad = [&](std::string_view what, Code code) {
    return Error{code, fmt::format("{}: tensor {} {}", place, gguf::quoted(stored.name), what)};
  };
  for (const std::string_view prefix : {"bert.", "roberta."})
    if (stored.name.starts_with(prefix)) stored.name.erase(0, prefix.size());
  if (for_training(stored.name, encoder.classifies)) return std::optional<Renamed>();
  Renamed out{.name = encoder_name(stored.name)};
  if (out.name.empty()) return bad("is none that this architecture has", Code::unsupported);
  auto& shape = stored.shape;
  if (shape.empty() || shape.size() > 2 || std::ranges::any_of(shape, [](std::int64_t n) { return n < 1; }))
    return bad("is neither a vector nor a matrix", Code::corrupt);
  // As other engines want them.
  out.type = shape.size() == 1 || out.name == "token_types.weight" ? Type::f32 : stored.type;
  if (out.name == "position_embd.weight" && encoder.first_position > 0) {
    if (shape.size() != 2 || shape[0] <= encoder.first_position || stored.make)
      return bad(fmt::format("has no rows behind the first {}", encoder.first_position), Code::corrupt);
    const safetensors::Tensor* from = stored.from.front();
    const std::size_t skipped =
        from->data.size() / static_cast<std::size_t>(shape[0]) * static_cast<std::size_t>(encoder.first_position);
    shape[0] -= encoder.first_position;
    stored.make = [from, skipped](std::span<std::byte> room) -> Status {
      CHECK(room.size() == from->data.size() - skipped, "room for the rows that are left");
      std::memcpy(room.data(), from->data.data() + skipped, room.size());
      return {};
    };
  }
  out.stored = std::move(stored);
  return out;
}

}  // namespace ashlar::models
