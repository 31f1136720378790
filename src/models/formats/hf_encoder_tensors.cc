#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <cstring>
#include <span>

#include "models/formats/hf_encoder.h"

namespace ashlar::models {
namespace {

using kernels::Type;

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
