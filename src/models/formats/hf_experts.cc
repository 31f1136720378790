#include "models/formats/hf_experts.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <cstring>
#include <map>
#include <memory>
#include <numeric>
#include <optional>

namespace ashlar::models {
namespace {

constexpr std::string_view kBlocks = "_blocks", kScales = "_scales";
constexpr int kMxfp4Block = 32, kMxfp4Codes = 16, kMxfp4Bytes = 17;

std::size_t size(std::int64_t n) { return static_cast<std::size_t>(n); }

Error bad(std::string_view place, std::string_view tensor, std::string_view what) {
  return Error{Code::corrupt, fmt::format("{}: tensor {} {}", place, gguf::quoted(tensor), what)};
}

// "PREFIX.experts.3.PART.weight" taken apart.
struct ExpertName {
  std::string all;  // "PREFIX.experts.PART.weight"
  int expert;
};

std::optional<ExpertName> expert_name(std::string_view name) {
  constexpr std::string_view kExperts = ".experts.";
  const std::size_t at = name.find(kExperts);
  if (at == std::string_view::npos) return std::nullopt;
  const std::string_view rest = name.substr(at + kExperts.size());
  int expert = -1;
  const auto number = std::from_chars(rest.data(), rest.data() + rest.size(), expert);
  const auto digits = static_cast<std::size_t>(number.ptr - rest.data());
  if (number.ec != std::errc() || expert < 0 || digits == rest.size() || rest[digits] != '.') return std::nullopt;
  return ExpertName{fmt::format("{}{}", name.substr(0, at + kExperts.size()), rest.substr(digits + 1)), expert};
}

Status make_one(const Stored& stored, std::span<std::byte> room) {
  if (stored.make) return stored.make(room);
  std::memcpy(room.data(), stored.from.front()->data.data(), room.size());
  return {};
}

Result<Stored> stack(std::string name, std::map<int, Stored> experts, std::string_view place) {
  const Stored& first = experts.begin()->second;
  Stored out{.name = std::move(name), .type = first.type, .shape = first.shape};
  const bool ordered = std::ranges::any_of(experts, [](const auto& e) { return !e.second.order.empty(); });
  auto parts = std::make_shared<std::vector<Stored>>();
  for (auto& [index, expert] : experts) {
    if (index != static_cast<int>(parts->size()))
      return bad(place, out.name, fmt::format("is missing for expert {}", parts->size()));
    if (expert.type != out.type || expert.shape != out.shape || expert.shape.size() != 2)
      return bad(place, expert.name, "differs from that of other experts");
    out.from.insert(out.from.end(), expert.from.begin(), expert.from.end());
    if (ordered && expert.order.empty()) {
      expert.order.resize(size(expert.shape[1]));
      std::iota(expert.order.begin(), expert.order.end(), 0);
    }
    out.order.insert(out.order.end(), expert.order.begin(), expert.order.end());
    parts->push_back(std::move(expert));
  }
  out.shape.insert(out.shape.begin(), static_cast<std::int64_t>(parts->size()));
  out.make = [parts](std::span<std::byte> room) -> Status {
    const std::size_t each = room.size() / parts->size();
    for (std::size_t i = 0; i < parts->size(); ++i) TRY(make_one((*parts)[i], room.subspan(i * each, each)));
    return {};
  };
  return out;
}

// Which rows of gate_up a half has: those of gate and of up alternate.
struct Half {
  std::string_view name;
  std::size_t first, step;
};
constexpr Half kGateUp[] = {{"gate_proj", 0, 2}, {"up_proj", 1, 2}};
constexpr Half kWhole[] = {{"down_proj", 0, 1}};

std::span<const Half> halves_of(std::string_view part) {
  return part.ends_with("gate_up_proj") ? std::span<const Half>(kGateUp) : std::span<const Half>(kWhole);
}

std::string with_part(std::string_view stem, std::string_view part, std::string_view kind) {
  return fmt::format("{}.{}.{}", stem.substr(0, stem.rfind('.')), part, kind);
}

// gpt-oss: [experts, rows] of biases, [experts, columns, rows] of weights that are not in MXFP4.
Result<std::vector<Stored>> come_apart(const Stored& whole, std::string_view stem, std::string_view place) {
  const bool bias = whole.name.ends_with("_bias");
  const auto halves = halves_of(stem);
  const std::int64_t all = whole.shape.empty() ? 0 : whole.shape.back();
  if (whole.shape.size() != (bias ? 2u : 3u) || all % static_cast<std::int64_t>(halves.size()) != 0 || whole.make)
    return bad(place, whole.name, "has a shape that experts do not have");
  const std::int64_t experts = whole.shape.front(), rows = all / static_cast<std::int64_t>(halves.size());
  const std::int64_t columns = bias ? 1 : whole.shape[1];
  std::vector<Stored> out;
  for (const Half& half : halves) {
    Stored part{.name = with_part(stem, half.name, bias ? "bias" : "weight"), .type = whole.type, .from = whole.from};
    part.shape = {experts, rows};
    if (!bias) part.shape.push_back(columns);
    const std::size_t element = kernels::row_bytes(whole.type, 1);
    part.make = [=, from = whole.from.front()](std::span<std::byte> room) -> Status {
      std::byte* to = room.data();
      for (std::size_t e = 0; e < size(experts); ++e)
        for (std::size_t r = 0; r < size(rows); ++r)
          for (std::size_t c = 0; c < size(columns); ++c, to += element)
            std::memcpy(
                to, from->data.data() + ((e * size(columns) + c) * size(all) + half.first + half.step * r) * element,
                element);
      return {};
    };
    out.push_back(std::move(part));
  }
  return out;
}

// A block's scale, then codes 0..15 low and 16..31 high; there, neighbours share a byte.
void place_block(const std::byte* codes, std::byte scale, std::byte* out) {
  const auto code = [&](int i) { return static_cast<int>(codes[i / 2]) >> 4 * (i % 2) & 15; };
  out[0] = scale;
  for (int i = 0; i < kMxfp4Codes; ++i) out[1 + i] = static_cast<std::byte>(code(i) | code(i + kMxfp4Codes) << 4);
}

Stored mxfp4_matrix(std::string name, const safetensors::Tensor& blocks, const safetensors::Tensor& scales,
                    const Half& half) {
  const std::int64_t experts = blocks.shape[0], all = blocks.shape[1], units = blocks.shape[2];
  const std::int64_t rows = all / static_cast<std::int64_t>(half.step);
  Stored out{.name = std::move(name), .type = kernels::Type::mxfp4, .from = {&blocks, &scales}};
  out.shape = {experts, rows, units * kMxfp4Block};
  out.make = [=, &blocks, &scales](std::span<std::byte> room) -> Status {
    std::byte* to = room.data();
    for (std::size_t e = 0; e < size(experts); ++e)
      for (std::size_t r = 0; r < size(rows); ++r) {
        const std::size_t first = (e * size(all) + half.first + half.step * r) * size(units);
        for (std::size_t u = first; u < first + size(units); ++u, to += kMxfp4Bytes)
          place_block(blocks.data.data() + u * kMxfp4Codes, scales.data[u], to);
      }
    return {};
  };
  return out;
}

}  // namespace

Result<std::vector<Stored>> stack_experts(std::vector<Stored> stored, std::string_view place) {
  std::vector<Stored> out;
  std::map<std::string, std::map<int, Stored>> stacks;
  for (Stored& one : stored) {
    if (auto name = expert_name(one.name)) {
      stacks[name->all].emplace(name->expert, std::move(one));
      continue;
    }
    std::string_view stem = one.name;
    if (stem.ends_with("_bias")) stem.remove_suffix(5);
    if (stem.ends_with(".experts.gate_up_proj") || stem.ends_with(".experts.down_proj"))
      std::ranges::move(TRY(come_apart(one, stem, place)), std::back_inserter(out));
    else
      out.push_back(std::move(one));
  }
  for (auto& [name, experts] : stacks) out.push_back(TRY(stack(name, std::move(experts), place)));
  return out;
}

bool is_mxfp4_part(std::string_view name) { return name.ends_with(kBlocks) || name.ends_with(kScales); }

Result<std::vector<Stored>> mxfp4_matrices(const safetensors::Checkpoint& weights) {
  std::vector<Stored> out;
  std::map<std::string, const safetensors::Tensor*> scales;
  for (const safetensors::Tensor& tensor : weights.tensors())
    if (tensor.name.ends_with(kScales)) scales[std::string(tensor.name)] = &tensor;
  for (const safetensors::Tensor& blocks : weights.tensors()) {
    if (!blocks.name.ends_with(kBlocks)) continue;
    const std::string stem = plain_name(std::string_view(blocks.name).substr(0, blocks.name.size() - kBlocks.size()));
    const std::string_view stored = std::string_view(blocks.name).substr(0, blocks.name.size() - kBlocks.size());
    const auto found = scales.find(fmt::format("{}{}", stored, kScales));
    if (found == scales.end()) return bad(weights.path(), blocks.name, "has no scales beside it");
    const auto& shape = blocks.shape;
    const auto halves = halves_of(stem);
    const bool bytes = blocks.type == safetensors::Type::u8 && found->second->type == safetensors::Type::u8;
    if (!bytes || shape.size() != 4 || shape[3] != kMxfp4Codes ||
        shape[1] % static_cast<std::int64_t>(halves.size()) != 0 ||
        found->second->shape != std::vector<std::int64_t>(shape.begin(), shape.end() - 1))
      return bad(weights.path(), blocks.name, "and its scales are no blocks of 16 bytes with a byte for each");
    for (const Half& half : halves)
      out.push_back(mxfp4_matrix(with_part(stem, half.name, "weight"), blocks, *found->second, half));
    scales.erase(found);
  }
  if (!scales.empty()) return bad(weights.path(), scales.begin()->first, "has no blocks beside it");
  return out;
}

}  // namespace ashlar::models
