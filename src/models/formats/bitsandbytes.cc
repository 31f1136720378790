// bitsandbytes checkpoints: NF4 and FP4 (Dettmers et al. 2023, arXiv:2305.14314), and LLM.int8() (arXiv:2208.07339).
//
//   weight         U8 [n / 2, 1]        codes of 4 bits, row after row, the first of each two in the upper half
//   weight.absmax  F32 [n / blocksize]  the greatest of each block; or U8, to be looked up in
//     weight.nested_quant_map F32 [256], times weight.nested_absmax F32 [.. / nested_blocksize], plus nested_offset
//   weight.quant_map F32 [16]           the values of the codes
//   weight.quant_state.bitsandbytes__nf4  U8: a JSON object of the sizes
// or
//   weight         I8 [out, in]         127ths
//   SCB            F32 [out]            of these
//   weight_format  U8                   0: rows as they are
//
// What LLM.int8() does with columns of outliers concerns activations; our scales of those are for 32 columns each.
// Where a text has told which columns meet outliers, our own quantizer keeps their weights besides, and other readers
// find codes for them all the same:
//
//   outlier_columns I32 [n]                  rising
//   outlier_weight  F32, F16 or BF16 [out, n]
#include <fmt/format.h>

#include <array>
#include <cmath>
#include <cstring>
#include <memory>
#include <numeric>
#include <utility>

#include "base/json_full.h"
#include "models/formats/gguf.h"
#include "models/formats/published_matrix.h"

namespace ashlar::models {
namespace {

constexpr std::int64_t kMostBlock = 1 << 20;
constexpr std::string_view kState = ".weight.quant_state.bitsandbytes__";

struct State {
  std::int64_t rows = 0, columns = 0, block = 0, nested_block = 256;
  float nested_offset = 0;
  bool nested = false;
};

Result<State> read_state(const Module& module, const safetensors::Tensor& tensor) {
  const auto wrong = [&](std::string_view what) { return module.bad(tensor, what); };
  if (tensor.type != safetensors::Type::u8) return module.bad_shape(tensor, "U8, a JSON object");
  const auto json = parse_json({reinterpret_cast<const char*>(tensor.data.data()), tensor.data.size()},
                               {.depth = 4, .members = 64, .elements = 64, .unique = true});
  if (!json || !json->is_object()) return wrong("is not a JSON object");
  const auto size = [&](const char* name, std::int64_t otherwise) {
    const auto at = json->find(name);
    if (at == json->end() || at->is_null()) return otherwise;
    return at->is_number_unsigned() && at->get<std::uint64_t>() <= INT64_MAX ? at->get<std::int64_t>()
                                                                             : std::int64_t{-1};
  };
  State state{.block = size("blocksize", -1), .nested_block = size("nested_blocksize", 256)};
  const auto shape = json->find("shape");
  if (shape == json->end() || !shape->is_array() || shape->size() != 2 || !(*shape)[0].is_number_unsigned() ||
      !(*shape)[1].is_number_unsigned())
    return wrong("has no \"shape\" of two sizes");
  const auto rows = (*shape)[0].get<std::uint64_t>(), columns = (*shape)[1].get<std::uint64_t>();
  if (rows < 1 || columns < 1 || rows > INT32_MAX || columns > kMostColumns)
    return wrong("has an impossible \"shape\"");
  state.rows = static_cast<std::int64_t>(rows);
  state.columns = static_cast<std::int64_t>(columns);
  if (state.block < 1 || state.block > kMostBlock) return wrong("has no \"blocksize\" of at least 1");
  if (state.nested_block < 1 || state.nested_block > kMostBlock)
    return wrong("has no \"nested_blocksize\" of at least 1");
  if (const auto offset = json->find("nested_offset"); offset != json->end() && offset->is_number())
    state.nested_offset = offset->get<float>();
  return state;
}

// [count] floats.
Result<std::vector<float>> floats_of(const Module& module, std::string_view suffix, std::size_t count) {
  const safetensors::Tensor& tensor = *TRY(module.need(suffix));
  const Floats floats = TRY(Floats::of(module, tensor));
  if (static_cast<std::size_t>(tensor.elements()) != count)
    return module.bad_shape(tensor, fmt::format("{} numbers", count));
  std::vector<float> out(count);
  for (std::size_t i = 0; i < count; ++i) out[i] = floats[i];
  return out;
}

// Each block's greatest.
Result<std::vector<float>> read_absmax(const Module& module, const State& state,
                                       std::vector<const safetensors::Tensor*>& from) {
  const std::int64_t elements = state.rows * state.columns;
  const auto blocks = static_cast<std::size_t>((elements + state.block - 1) / state.block);
  const safetensors::Tensor& absmax = *TRY(module.need(".weight.absmax"));
  from.push_back(&absmax);
  if (absmax.type != safetensors::Type::u8) return floats_of(module, ".weight.absmax", blocks);
  if (static_cast<std::size_t>(absmax.elements()) != blocks)
    return module.bad_shape(absmax, fmt::format("{} codes", blocks));
  const auto nested_block = static_cast<std::size_t>(state.nested_block);
  const auto map = TRY(floats_of(module, ".weight.nested_quant_map", 256));
  const auto of = TRY(floats_of(module, ".weight.nested_absmax", (blocks + nested_block - 1) / nested_block));
  for (const std::string_view suffix : {".weight.nested_quant_map", ".weight.nested_absmax"})
    from.push_back(module.find(suffix));
  std::vector<float> out(blocks);
  for (std::size_t i = 0; i < blocks; ++i)
    out[i] = map[static_cast<std::size_t>(absmax.data[i])] * of[i / nested_block] + state.nested_offset;
  return out;
}

Result<PublishedMatrix> read_four_bits(const safetensors::Checkpoint& weights, std::string_view name, bool nf4) {
  const Module module(weights, name);
  const safetensors::Tensor& codes = *TRY(module.need(".weight"));
  const safetensors::Tensor& packed = *TRY(module.need(fmt::format("{}{}", kState, nf4 ? "nf4" : "fp4")));
  const State state = TRY(read_state(module, packed));
  const std::int64_t elements = state.rows * state.columns;
  if (codes.type != safetensors::Type::u8 || codes.elements() != (elements + 1) / 2)
    return module.bad_shape(
        codes, fmt::format("U8, {} bytes for {} x {} codes", (elements + 1) / 2, state.rows, state.columns));
  PublishedMatrix m{.name = codes.name,
                    .rows = state.rows,
                    .columns = state.columns,
                    .levels = nf4 ? PublishedMatrix::Levels::nf4 : PublishedMatrix::Levels::fp4,
                    .from = {&codes, &packed}};
  const auto absmax = std::make_shared<const std::vector<float>>(TRY(read_absmax(module, state, m.from)));
  if (const safetensors::Tensor* map = module.find(".weight.quant_map")) m.from.push_back(map);
  // Blocks run on from row to row: a row is cut where any row's may end.
  const std::int64_t piece = std::gcd(state.block, state.columns);
  m.groups = static_cast<int>(state.columns / piece);
  m.group_of = groups_in_order(state.columns, piece);
  m.codes = [&codes, columns = static_cast<std::size_t>(state.columns)](std::int64_t first, int count,
                                                                        std::uint8_t* out, std::size_t stride) {
    for (int r = 0; r < count; ++r)
      for (std::size_t c = 0; c < columns; ++c) {
        const std::size_t at = static_cast<std::size_t>(first + r) * columns + c;
        const auto both = static_cast<std::uint8_t>(codes.data[at / 2]);
        out[static_cast<std::size_t>(r) * stride + c] = at % 2 == 0 ? both >> 4 : both & 15;
      }
  };
  m.scales = [absmax, state, piece, groups = m.groups](std::int64_t row, float* scales, std::int32_t* zeros) {
    for (int g = 0; g < groups; ++g) {
      scales[g] = (*absmax)[static_cast<std::size_t>((row * state.columns + g * piece) / state.block)];
      zeros[g] = 0;
    }
  };
  return m;
}

Result<std::shared_ptr<const kernels::KeptColumns>> read_outliers(const Module& module, PublishedMatrix& m) {
  const safetensors::Tensor* columns = module.find(".outlier_columns");
  if (columns == nullptr) return nullptr;
  const safetensors::Tensor& weights = *TRY(module.need(".outlier_weight"));
  const Floats floats = TRY(Floats::of(module, weights));
  const std::int64_t count = columns->elements();
  if (!is_words(*columns) || columns->shape.size() != 1 || count < 1 || count > m.columns)
    return module.bad_shape(*columns, fmt::format("I32 [1 to {}]", m.columns));
  if (!has_shape(weights, {m.rows, count})) return module.bad_shape(weights, fmt::format("[{}, {}]", m.rows, count));
  kernels::KeptColumns kept;
  for (std::size_t k = 0; k < static_cast<std::size_t>(count); ++k) {
    const std::uint32_t column = word_at(*columns, k);
    const bool rising = kept.columns.empty() || std::cmp_less(kept.columns.back(), column);
    if (!rising || std::cmp_greater_equal(column, m.columns))
      return module.bad(*columns, fmt::format("are not rising columns below {}", m.columns));
    kept.columns.push_back(static_cast<std::int32_t>(column));
  }
  kept.weights.resize(static_cast<std::size_t>(weights.elements()));
  const auto n = static_cast<std::size_t>(count), rows = static_cast<std::size_t>(m.rows);
  for (std::size_t r = 0; r < rows; ++r)
    for (std::size_t k = 0; k < n; ++k) {
      const float value = floats[r * n + k];
      if (!std::isfinite(value)) return module.bad(weights, "holds a value that is not finite");
      kept.weights[k * rows + r] = value;
    }
  m.from.push_back(columns);
  m.from.push_back(&weights);
  return std::make_shared<const kernels::KeptColumns>(std::move(kept));
}

Result<PublishedMatrix> read_int8(const safetensors::Checkpoint& weights, std::string_view name) {
  const Module module(weights, name);
  const safetensors::Tensor& codes = *TRY(module.need(".weight"));
  const safetensors::Tensor& of = *TRY(module.need(".SCB"));
  if (codes.type != safetensors::Type::i8 || codes.shape.size() != 2 || codes.shape[0] < 1 || codes.shape[1] < 1 ||
      codes.shape[1] > kMostColumns)
    return module.bad_shape(codes, "a matrix of I8");
  const Floats greatest = TRY(Floats::of(module, of));
  if (!has_shape(of, {codes.shape[0]})) return module.bad_shape(of, fmt::format("[{}]", codes.shape[0]));
  PublishedMatrix m{
      .name = codes.name, .rows = codes.shape[0], .columns = codes.shape[1], .bits = 8, .from = {&codes, &of}};
  if (const safetensors::Tensor* format = module.find(".weight_format")) {
    m.from.push_back(format);
    if (std::ranges::any_of(format->data, [](std::byte b) { return b != std::byte{}; }))
      return module.bad(*format, "is not 0: rows that are not as they are; supported: 0 (row)", Code::unsupported);
  }
  m.group_of = groups_in_order(m.columns, 0);
  m.codes = [&codes, columns = static_cast<std::size_t>(m.columns)](std::int64_t first, int count, std::uint8_t* out,
                                                                    std::size_t stride) {
    for (int r = 0; r < count; ++r)
      for (std::size_t c = 0; c < columns; ++c)
        out[static_cast<std::size_t>(r) * stride + c] =
            static_cast<std::uint8_t>(codes.data[static_cast<std::size_t>(first + r) * columns + c]) ^ 128;
  };
  m.scales = [greatest](std::int64_t row, float* scales, std::int32_t* zeros) {
    scales[0] = greatest[static_cast<std::size_t>(row)] / 127;
    zeros[0] = 128;
  };
  m.kept = TRY(read_outliers(module, m));
  return m;
}

}  // namespace

Result<Published> read_bitsandbytes(const safetensors::Checkpoint& weights, const QuantizationConfig&) {
  Published out;
  for (const bool nf4 : {true, false})
    for (const std::string_view name : modules_with(weights, fmt::format("{}{}", kState, nf4 ? "nf4" : "fp4")))
      out.add(TRY(read_four_bits(weights, name, nf4)));
  for (const std::string_view name : modules_with(weights, ".SCB")) out.add(TRY(read_int8(weights, name)));
  return out;
}

}  // namespace ashlar::models
