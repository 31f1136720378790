#include "models/formats/safetensors_writer.h"

#include <fmt/format.h>

#include <algorithm>
#include <numeric>

#include "base/json_full.h"

namespace ashlar::models::safetensors {
namespace {

constexpr std::size_t kWrite = 16 << 20;  // bytes written between two looks at the watch
constexpr std::size_t kAlignment = 8;     // of the data's first byte, as the reference writer has it

std::string_view text_of(std::span<const std::byte> bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

}  // namespace

void Writer::add(std::string name, Type type, std::vector<std::int64_t> shape, Produce produce) {
  const auto elements = std::accumulate(shape.begin(), shape.end(), std::int64_t{1}, std::multiplies<>());
  const std::uint64_t size = static_cast<std::uint64_t>(elements) * static_cast<std::uint64_t>(bytes_of(type));
  tensors_.push_back({std::move(name), type, std::move(shape), size, std::move(produce)});
}

std::uint64_t Writer::bytes() const {
  std::uint64_t sum = 0;
  for (const Pending& tensor : tensors_) sum += tensor.size;
  return sum;
}

Status Writer::give(std::span<const Pending> tensors, const Put& put) const {
  // Written by hand: an ordered object looks each new name up among all the others.
  std::string header = "{";
  const auto member = [&](std::string_view name) {
    if (header.size() > 1) header += ',';
    append_json_string(header, name);
    header += ':';
  };
  if (!metadata_.empty()) {
    Json metadata = Json::object();
    for (const auto& [key, text] : metadata_) metadata[key] = text;
    member("__metadata__");
    header += dump_json(metadata);
  }
  std::uint64_t at = 0;
  for (const Pending& tensor : tensors) {
    member(tensor.name);
    header += fmt::format(R"({{"dtype":"{}","shape":[{}],"data_offsets":[{},{}]}})", name(tensor.type),
                          fmt::join(tensor.shape, ","), at, at + tensor.size);
    at += tensor.size;
  }
  header += '}';
  header.resize((header.size() + kAlignment - 1) / kAlignment * kAlignment, ' ');
  const std::uint64_t length = header.size();
  TRY(put({reinterpret_cast<const char*>(&length), sizeof length}));
  TRY(put(header));
  for (const Pending& tensor : tensors) {
    const auto bytes = TRY(tensor.produce());
    CHECK(bytes.size() == tensor.size, "a tensor is as large as its shape says");
    TRY(put(text_of(bytes)));
  }
  return {};
}

Status Writer::give(const Put& put) const { return give(std::span(tensors_), put); }

Status Writer::write(NewFolder& folder, std::uint64_t most, const std::function<Status()>& watch) const {
  const Put put = [&](std::string_view bytes) -> Status {
    for (; !bytes.empty(); bytes.remove_prefix(std::min(kWrite, bytes.size()))) {
      TRY(watch());
      TRY(folder.write(bytes.substr(0, kWrite)));
    }
    return {};
  };
  std::vector<std::span<const Pending>> shards;
  for (std::size_t begin = 0, end = 0; begin < tensors_.size(); begin = end) {
    for (std::uint64_t sum = 0; end < tensors_.size() && (end == begin || sum + tensors_[end].size <= most); ++end)
      sum += tensors_[end].size;
    shards.push_back(std::span(tensors_).subspan(begin, end - begin));
  }
  if (shards.size() == 1) {
    TRY(folder.begin("model.safetensors"));
    TRY(give(shards.front(), put));
    return folder.end();
  }
  std::string map;
  for (std::size_t i = 0; i < shards.size(); ++i) {
    const std::string file = fmt::format("model-{:05}-of-{:05}.safetensors", i + 1, shards.size());
    TRY(folder.begin(file));
    TRY(give(shards[i], put));
    TRY(folder.end());
    for (const Pending& tensor : shards[i]) {
      map += map.empty() ? "\n    " : ",\n    ";
      append_json_string(map, tensor.name);
      map += fmt::format(": \"{}\"", file);
    }
  }
  TRY(folder.begin("model.safetensors.index.json"));
  TRY(folder.write(
      fmt::format("{{\n  \"metadata\": {{\"total_size\": {}}},\n  \"weight_map\": {{{}\n  }}\n}}\n", bytes(), map)));
  return folder.end();
}

}  // namespace ashlar::models::safetensors
