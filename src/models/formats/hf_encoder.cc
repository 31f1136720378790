#include "models/formats/hf_encoder.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <span>

#include "models/formats/hf_absent.h"
#include "models/formats/hf_fields.h"
#include "models/formats/hf_pooling.h"

namespace ashlar::models {
namespace {

namespace fs = std::filesystem;

constexpr int kMostVocabulary = 1 << 24, kMostTypes = 256;
constexpr double kLeastEpsilon = 1e-30, kMostEpsilon = 1;

struct EncoderFamily {
  std::string_view model_type;
  bool padded_positions = false;  // positions count from behind the padding token's id
};
constexpr EncoderFamily kFamilies[] = {{"bert"}, {"roberta", true}, {"xlm-roberta", true}, {"camembert", true}};

Status finish_shape(const Fields& fields, std::string_view heads_name, Shape& s) {
  s.kv_heads = s.heads;
  if (s.width % s.heads != 0)
    return fields.bad(heads_name, fmt::format("is {}, which does not divide the width {}", s.heads, s.width));
  s.head_dim = s.width / s.heads;
  if (s.head_dim % 8 != 0 || s.head_dim > kMostHeadDim)
    return fields.unsupported(
        heads_name, fmt::format("makes heads of {}; multiples of 8 up to {} are supported", s.head_dim, kMostHeadDim));
  return {};
}

Result<float> read_epsilon(const Fields& fields, std::string_view name) {
  return static_cast<float>(TRY(fields.number(name, kLeastEpsilon, kMostEpsilon)).value_or(1e-12));
}

Result<HfEncoder> read_bert(const Fields& fields, const EncoderFamily& family) {
  HfEncoder out;
  Shape& s = out.config.shape;
  s.architecture = "bert";
  s.layers = TRY(fields.size("num_hidden_layers", kMostLayers));
  s.width = TRY(fields.size("hidden_size", kMostWidth));
  s.hidden = TRY(fields.size("intermediate_size", kMostHidden));
  s.heads = TRY(fields.size("num_attention_heads", kMostHeads));
  s.vocabulary = TRY(fields.size("vocab_size", kMostVocabulary));
  s.context = TRY(fields.size("max_position_embeddings", kMostContext));
  TRY(finish_shape(fields, "num_attention_heads", s));
  if (family.padded_positions) {
    out.first_position = 1 + TRY(fields.whole("pad_token_id", 0, s.context - 2)).value_or(1);
    s.context -= out.first_position;
  }
  const std::string positions = TRY(fields.text("position_embedding_type")).value_or("absolute");
  if (positions != "absolute")
    return fields.unsupported("position_embedding_type",
                              fmt::format("is {}; absolute is supported", gguf::quoted(positions)));
  if (TRY(fields.flag("is_decoder")).value_or(false))
    return fields.unsupported("is_decoder", "is true; encoders, whose rows see all of a text, are supported");
  EncoderConfig encoder{.token_types = TRY(fields.size("type_vocab_size", kMostTypes, 2))};
  const std::string activation = TRY(fields.text("hidden_act")).value_or("gelu");
  if (activation == "gelu_new" || activation == "gelu_pytorch_tanh")
    encoder.activation = EncoderConfig::Activation::gelu_tanh;
  else if (activation != "gelu")
    return fields.unsupported("hidden_act",
                              fmt::format("is {}; gelu and gelu_new are supported", gguf::quoted(activation)));
  out.config.encoder = encoder;
  out.config.rms_epsilon = TRY(read_epsilon(fields, "layer_norm_eps"));
  return out;
}

Result<HfEncoder> read_nomic(const Fields& fields) {
  HfEncoder out;
  Shape& s = out.config.shape;
  s.architecture = "nomic-bert";
  s.layers = TRY(fields.size("n_layer", kMostLayers));
  s.width = TRY(fields.size("n_embd", kMostWidth));
  s.hidden = TRY(fields.size("n_inner", kMostHidden, 4 * s.width));
  s.heads = TRY(fields.size("n_head", kMostHeads));
  s.vocabulary = TRY(fields.size("vocab_size", kMostVocabulary));
  s.context = TRY(fields.size("n_positions", kMostContext));
  // What lies beyond what it was trained for needs a stretched rope.
  s.context = std::min(s.context, TRY(fields.size("max_trained_positions", kMostContext, 2048)));
  TRY(finish_shape(fields, "n_head", s));
  const auto refuse = [&](std::string_view name, std::string_view what) {
    return fields.unsupported(name, fmt::format("is not {}, which is not supported", what));
  };
  if (TRY(fields.whole("moe_every_n_layers", 0, kMostLayers)).value_or(0) != 0)
    return refuse("moe_every_n_layers", "0");
  if (TRY(fields.text("activation_function")) != "swiglu") return refuse("activation_function", "\"swiglu\"");
  for (const std::string_view name :
       {"prenorm", "qkv_proj_bias", "mlp_fc1_bias", "mlp_fc2_bias", "rotary_emb_interleaved"})
    if (TRY(fields.flag(name)).value_or(false)) return refuse(name, "false");
  if (TRY(fields.number("rotary_emb_fraction", 0, 1)).value_or(1) != 1) return refuse("rotary_emb_fraction", "1");
  if (fields.find("rotary_emb_scale_base") != nullptr) return refuse("rotary_emb_scale_base", "null");
  out.config.rope.base = TRY(fields.positive("rotary_emb_base", 10000.0));
  out.config.rope.dims = s.head_dim;
  out.config.encoder = EncoderConfig{.token_types = TRY(fields.size("type_vocab_size", kMostTypes, 2))};
  out.config.rms_epsilon = TRY(read_epsilon(fields, "layer_norm_epsilon"));
  return out;
}

}  // namespace

Result<std::optional<HfEncoder>> open_hf_encoder(const std::string& folder) {
  const auto file = TRY(FieldsFile::open(folder + "/config.json"));
  if (!file) return no_config(folder);
  const Fields fields = file->fields();
  const Json* type = fields.find("model_type");
  if (type == nullptr || !type->is_string()) return std::optional<HfEncoder>();
  const auto family = std::ranges::find(kFamilies, type->get<std::string>(), &EncoderFamily::model_type);
  const bool nomic = *type == "nomic_bert";
  if (family == std::end(kFamilies) && !nomic) return std::optional<HfEncoder>();
  HfEncoder encoder = nomic ? TRY(read_nomic(fields)) : TRY(read_bert(fields, *family));
  encoder.config.attention_scale = 1 / std::sqrt(static_cast<float>(encoder.config.shape.head_dim));
  const Json* classes = fields.find("architectures");
  encoder.classifies = classes != nullptr && classes->is_array() && !classes->empty() && classes->front().is_string() &&
                       classes->front().get<std::string>().ends_with("ForSequenceClassification");
  encoder.config.pooling = TRY(open_hf_pooling(folder));
  if (encoder.classifies) {
    encoder.config.pooling = Pooling::rank;
    encoder.config.labels = read_labels(fields);
  }
  return encoder;
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

}  // namespace ashlar::models
