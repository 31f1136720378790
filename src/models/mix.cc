#include "models/mix.h"

#include <algorithm>
#include <cctype>

namespace ashlar::models {
namespace {

using kernels::Type;

constexpr Mix kMixes[] = {
    {"F32", Type::f32, 0},      {"F16", Type::f16, 1},        {"BF16", Type::bf16, 32},     {"Q8_0", Type::q8_0, 7},
    {"Q4_0", Type::q4_0, 2},    {"Q4_1", Type::q4_1, 3},      {"Q5_0", Type::q5_0, 8},      {"Q5_1", Type::q5_1, 9},
    {"Q2_K", Type::q2_k, 10},   {"Q3_K_S", Type::q3_k, 11},   {"Q3_K_M", Type::q3_k, 12},   {"Q3_K_L", Type::q3_k, 13},
    {"Q4_K_S", Type::q4_k, 14}, {"Q4_K_M", Type::q4_k, 15},   {"Q5_K_S", Type::q5_k, 16},   {"Q5_K_M", Type::q5_k, 17},
    {"Q6_K", Type::q6_k, 18},   {"IQ4_NL", Type::iq4_nl, 25}, {"IQ4_XS", Type::iq4_xs, 30},
};

bool same(std::string_view a, std::string_view b) {
  return std::ranges::equal(
      a, b, {}, [](unsigned char c) { return std::toupper(c); }, [](unsigned char c) { return std::toupper(c); });
}

// The layers at both ends, and every third one between.
bool more_bits(int layer, int layers) {
  return layer < layers / 8 || layer >= 7 * layers / 8 || (layer - layers / 8) % 3 == 2;
}

Type value_type(const Mix& mix, const Shape& s, int layer) {
  const bool grouped = s.heads / s.kv_heads >= 4;
  if (mix.name == "Q2_K") return grouped ? Type::q4_k : Type::q3_k;
  if (mix.name == "Q3_K_M") return layer < 2 ? Type::q5_k : Type::q4_k;
  if (mix.name == "Q3_K_L") return Type::q5_k;
  if ((mix.name == "Q4_K_M" || mix.name == "Q5_K_M") && more_bits(layer, s.layers)) return Type::q6_k;
  if (mix.name == "Q4_K_S" && layer < 4) return Type::q5_k;
  if ((mix.type == Type::iq4_nl || mix.type == Type::iq4_xs) && grouped) return Type::q5_k;
  return mix.type;
}

Type down_type(const Mix& mix, const Shape& s, int layer, bool importance) {
  const bool first_eighth = layer < s.layers / 8;
  if (mix.name == "Q2_K") return Type::q3_k;
  if (mix.name == "Q3_K_M") return layer < s.layers / 16 ? Type::q5_k : Type::q4_k;
  if (mix.name == "Q3_K_L") return Type::q5_k;
  if ((mix.name == "Q4_K_M" || mix.name == "Q5_K_M") && more_bits(layer, s.layers)) return Type::q6_k;
  if (!first_eighth) return mix.type;
  const bool table = mix.type == Type::iq4_nl || mix.type == Type::iq4_xs;
  if (mix.name == "Q4_K_S" || (table && !importance)) return Type::q5_k;
  if (mix.type == Type::q4_0 && importance) return Type::q4_1;
  if (mix.type == Type::q5_0 && importance) return Type::q5_1;
  return mix.type;
}

Type attention_output_type(const Mix& mix) {
  if (mix.name == "Q2_K") return Type::q3_k;
  if (mix.name == "Q3_K_M") return Type::q4_k;
  if (mix.name == "Q3_K_L") return Type::q5_k;
  return mix.type;
}

// The type that takes rows which are not whole blocks of 256.
Type fitting(Type type, int columns) {
  if (columns % kernels::type_info(type).block == 0) return type;
  switch (type) {
    case Type::q2_k:
    case Type::q3_k:
      type = Type::q4_0;
      break;
    case Type::iq4_xs:
      type = Type::iq4_nl;
      break;
    case Type::q4_k:
      type = Type::q5_0;
      break;
    case Type::q5_k:
      type = Type::q5_1;
      break;
    case Type::q6_k:
      type = Type::q8_0;
      break;
    default:
      type = Type::f16;
      break;
  }
  return fitting(type, columns);
}

}  // namespace

const Mix* find_mix(std::string_view name) {
  if (same(name, "Q3_K") || same(name, "Q4_K") || same(name, "Q5_K")) {
    for (const Mix& mix : kMixes)
      if (mix.name.size() == name.size() + 2 && same(mix.name.substr(0, name.size()), name) && mix.name.ends_with("_M"))
        return &mix;
  }
  const auto found = std::ranges::find_if(kMixes, [&](const Mix& mix) { return same(mix.name, name); });
  return found == std::end(kMixes) ? nullptr : &*found;
}

const Mix* find_mix(std::int64_t file_type) {
  const auto found = std::ranges::find(kMixes, file_type, &Mix::file_type);
  return found == std::end(kMixes) ? nullptr : &*found;
}

std::vector<std::string_view> mix_names() {
  std::vector<std::string_view> names;
  for (const Mix& mix : kMixes) names.push_back(mix.name);
  return names;
}

Type choose_type(const Mix& mix, const Shape& shape, const MatrixPlace& place) {
  const bool quantized = kernels::type_info(mix.type).block > 1;
  Type type = mix.type;
  if (!quantized) return type;
  if (place.output) {
    if (place.columns % 256 != 0)
      type = Type::q8_0;
    else if (type != Type::q8_0)
      type = Type::q6_k;
  } else if (place.name.ends_with("attn_v.weight")) {
    type = value_type(mix, shape, place.layer);
  } else if (place.name.contains("ffn_down")) {
    type = down_type(mix, shape, place.layer, place.importance);
  } else if (place.name.ends_with("attn_output.weight")) {
    type = attention_output_type(mix);
  }
  return fitting(type, place.columns);
}

}  // namespace ashlar::models
