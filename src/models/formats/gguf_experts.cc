#include "models/formats/gguf_experts.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <cstring>
#include <map>
#include <optional>
#include <string>

namespace ashlar::models::gguf {
namespace {

// "blk.3.ffn_up.5.weight" taken apart.
struct OldName {
  std::string all;  // "blk.3.ffn_up_exps.weight"
  int expert;
};

std::optional<OldName> old_name(std::string_view name) {
  if (!name.starts_with("blk.")) return std::nullopt;
  for (const std::string_view part : {".ffn_gate.", ".ffn_up.", ".ffn_down."}) {
    const std::size_t at = name.find(part);
    if (at == std::string_view::npos) continue;
    const std::string_view rest = name.substr(at + part.size());
    int expert = -1;
    const auto number = std::from_chars(rest.data(), rest.data() + rest.size(), expert);
    const std::string_view kind = rest.substr(static_cast<std::size_t>(number.ptr - rest.data()));
    if (number.ec != std::errc() || expert < 0 || kind != ".weight") continue;
    return OldName{fmt::format("{}{}_exps{}", name.substr(0, at), part.substr(0, part.size() - 1), kind), expert};
  }
  return std::nullopt;
}

class OldExperts final : public Assembly {
 public:
  std::map<std::string, std::map<int, Tensor>, std::less<>> stacks;

  Status make(const Tensor& tensor, std::span<std::byte> room) const override {
    std::byte* to = room.data();
    for (const auto& [expert, one] : of(tensor)) to = std::ranges::copy(one.data, to).out;
    return {};
  }
  std::vector<std::span<const std::byte>> sources(const Tensor& tensor) const override {
    std::vector<std::span<const std::byte>> out;
    for (const auto& [expert, one] : of(tensor)) out.push_back(one.data);
    return out;
  }

 private:
  const std::map<int, Tensor>& of(const Tensor& tensor) const {
    const auto found = stacks.find(tensor.name);
    CHECK(found != stacks.end(), "a tensor comes back to the file that it is of");
    return found->second;
  }
};

Status check_stack(const std::map<int, Tensor>& experts, std::string_view place) {
  const Tensor& first = experts.begin()->second;
  int wanted = 0;
  for (const auto& [expert, one] : experts) {
    if (expert != wanted++)
      return Error{Code::corrupt, fmt::format("{}: there is tensor {}, but none of the kind for expert {}", place,
                                              quoted(one.name), wanted - 1)};
    if (one.type != first.type || one.dims != first.dims || one.rank != 2)
      return Error{Code::corrupt,
                   fmt::format("{}: tensor {} is {} of {}; as the first expert's, {} of {} is expected", place,
                               quoted(one.name), dims_text(one), kernels::type_info(one.type).name, dims_text(first),
                               kernels::type_info(first.type).name)};
  }
  return {};
}

}  // namespace

Result<std::shared_ptr<const Assembly>> stack_old_experts(std::vector<Tensor>& tensors, std::string_view place) {
  auto old = std::make_shared<OldExperts>();
  std::vector<Tensor> kept;
  for (const Tensor& tensor : tensors) {
    auto name = old_name(tensor.name);
    if (!name) {
      kept.push_back(tensor);
      continue;
    }
    const auto [stack, fresh] = old->stacks.try_emplace(std::move(name->all));
    if (!stack->second.emplace(name->expert, tensor).second)
      return Error{Code::corrupt,
                   fmt::format("{}: tensor {} is an expert's that appears twice", place, quoted(tensor.name))};
    if (!fresh) continue;
    kept.push_back(tensor);  // where the first stood
    kept.back().name = stack->first;
  }
  if (old->stacks.empty()) return nullptr;
  for (Tensor& tensor : kept) {
    const auto stack = old->stacks.find(tensor.name);
    if (stack == old->stacks.end() || tensor.name.data() != stack->first.data()) continue;
    TRY(check_stack(stack->second, place));
    tensor.rank = 3;
    tensor.dims[2] = static_cast<std::int64_t>(stack->second.size());
    tensor.data = {};
  }
  tensors = std::move(kept);
  return old;
}

}  // namespace ashlar::models::gguf
