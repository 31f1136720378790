#include "models/formats/safetensors.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <bit>
#include <cstring>
#include <filesystem>
#include <iterator>
#include <map>
#include <numeric>
#include <optional>

#include "base/json_full.h"
#include "models/formats/gguf.h"
#include "models/formats/weight_files.h"

namespace ashlar::models::safetensors {
namespace {

namespace fs = std::filesystem;

static_assert(std::endian::native == std::endian::little, "numbers are read as they lie");

constexpr std::size_t kLengthBytes = 8;
constexpr std::size_t kMaxNameBytes = 65535;
constexpr std::string_view kMetadata = "__metadata__";
constexpr std::string_view kSuffix = ".safetensors";

// An entry of a header holds a shape and two offsets, nothing deeper.
constexpr JsonLimits kHeaderLimits{.depth = 3, .members = 1024, .elements = kMaxRank, .unique = true};
constexpr JsonLimits kIndexLimits{.depth = 8, .members = 1024, .elements = 1024, .unique = true};

struct TypeRow {
  std::string_view name;
  int bytes;
};
constexpr TypeRow kTypes[] = {{"F64", 8},     {"F32", 4}, {"F16", 2}, {"BF16", 2}, {"F8_E4M3", 1},
                              {"F8_E5M2", 1}, {"I64", 8}, {"I32", 4}, {"I16", 2},  {"I8", 1},
                              {"U64", 8},     {"U32", 4}, {"U16", 2}, {"U8", 1},   {"BOOL", 1}};
static_assert(std::size(kTypes) == static_cast<std::size_t>(Type::boolean) + 1);

Error corrupt(std::string_view file, std::string_view what) {
  return Error{Code::corrupt, fmt::format("{}: {}", file, what)};
}

Error bad_tensor(std::string_view file, std::string_view tensor, std::string_view what) {
  return corrupt(file, fmt::format("tensor {} {}", gguf::quoted(tensor), what));
}

// What the JSON reader says does not name the file; what we say does.
Error in_file(const Error& error, std::string_view file) {
  return error.code == Code::invalid || error.code == Code::too_large ? corrupt(file, error.message) : error;
}

// What else people offer as weights, by its first bytes; empty: nothing known.
std::string_view other_format(std::span<const std::byte> bytes) {
  const std::string_view text(reinterpret_cast<const char*>(bytes.data()), std::min<std::size_t>(bytes.size(), 64));
  // A pickle's first two bytes are PROTO and the protocol, 2 to 5.
  if (text.size() >= 2 && text[0] == '\x80' && text[1] >= 2 && text[1] <= 5)
    return "a Python pickle, which can run code";
  if (text.starts_with("PK\x03\x04") || text.starts_with("PK\x05\x06"))
    return "a zip archive, such as PyTorch wraps pickles in";
  if (text.starts_with("GGUF")) return "a GGUF file";
  if (text.starts_with("version https://git-lfs")) return "a Git LFS pointer: the weights themselves were not fetched";
  return {};
}

Error not_safetensors(std::span<const std::byte> bytes, std::string_view file, std::string_view otherwise) {
  const std::string_view other = other_format(bytes);
  if (other.empty()) return corrupt(file, otherwise);
  return Error{Code::unsupported, fmt::format("{}: this is {}; safetensors are expected", file, other)};
}

// The text of the header, which begins the file after 8 bytes of length.
Result<std::string_view> header_text(std::span<const std::byte> bytes, std::string_view file) {
  if (bytes.size() < kLengthBytes)
    return not_safetensors(bytes, file, fmt::format("{} bytes are too few for a safetensors file", bytes.size()));
  std::uint64_t length;
  std::memcpy(&length, bytes.data(), sizeof length);
  if (length > kMaxHeaderBytes)
    return not_safetensors(
        bytes, file,
        fmt::format("not a safetensors file: a header of {} bytes; at most {} are allowed", length, kMaxHeaderBytes));
  const auto rest = bytes.subspan(kLengthBytes);
  if (length > rest.size())
    return not_safetensors(
        bytes, file, fmt::format("the header has {} bytes, but the file ends after {} of them", length, rest.size()));
  // Not even a blank may stand before it: what begins otherwise may be two formats at once.
  if (length < 2 || rest.front() != std::byte{'{'})
    return not_safetensors(bytes, file, "not a safetensors file: its header is not a JSON object");
  return std::string_view(reinterpret_cast<const char*>(rest.data()), length);
}

// A member that is an array of whole numbers of at least 0.
std::optional<std::vector<std::uint64_t>> whole_numbers(const Json& entry, const char* member) {
  const auto at = entry.find(member);
  if (at == entry.end() || !at->is_array()) return std::nullopt;
  std::vector<std::uint64_t> numbers;
  for (const Json& number : *at) {
    if (!number.is_number_unsigned()) return std::nullopt;
    numbers.push_back(number.get<std::uint64_t>());
  }
  return numbers;
}

Result<Type> read_type(const Json& entry, std::string_view tensor, std::string_view file) {
  const auto at = entry.find("dtype");
  if (at == entry.end() || !at->is_string()) return bad_tensor(file, tensor, "has no \"dtype\" that is a string");
  const auto& text = at->get_ref<const std::string&>();
  const auto* row = std::ranges::find(kTypes, text, &TypeRow::name);
  if (row != std::end(kTypes)) return static_cast<Type>(row - std::begin(kTypes));
  std::vector<std::string_view> names;
  std::ranges::transform(kTypes, std::back_inserter(names), &TypeRow::name);
  return Error{Code::unsupported, fmt::format("{}: tensor {} is of type {}, which is not supported; {} are", file,
                                              gguf::quoted(tensor), gguf::quoted(text), fmt::join(names, ", "))};
}

// One tensor of the header, within `data`.
Result<Tensor> read_tensor(const std::string& tensor_name, const Json& entry, std::span<const std::byte> data,
                           std::string_view file) {
  const auto bad = [&](std::string_view what) { return bad_tensor(file, tensor_name, what); };
  if (tensor_name.empty() || tensor_name.size() > kMaxNameBytes)
    return bad(fmt::format("has a name of {} bytes; 1 to {} are allowed", tensor_name.size(), kMaxNameBytes));
  if (!entry.is_object()) return bad("is not described by an object");
  Tensor tensor{.name = tensor_name, .type = TRY(read_type(entry, tensor_name, file)), .shape = {}, .data = {}};

  const auto shape = whole_numbers(entry, "shape");
  if (!shape) return bad("has no \"shape\" that is an array of whole numbers");
  // Dimensions are multiplied as if none were 0, so that no order of them overflows.
  std::int64_t most = bytes_of(tensor.type);
  for (const std::uint64_t dim : *shape) {
    if (!std::in_range<std::int64_t>(dim) ||
        __builtin_mul_overflow(most, std::max<std::int64_t>(static_cast<std::int64_t>(dim), 1), &most))
      return bad("has dimensions that multiply to more than any file holds");
    tensor.shape.push_back(static_cast<std::int64_t>(dim));
  }
  const auto wants = std::ranges::count(tensor.shape, 0) > 0 ? 0 : static_cast<std::uint64_t>(most);

  const auto offsets = whole_numbers(entry, "data_offsets");
  if (!offsets || offsets->size() != 2) return bad("has no \"data_offsets\" that are two whole numbers");
  const std::uint64_t begin = offsets->front(), end = offsets->back();
  if (begin > end) return bad(fmt::format("begins at {} and ends before that, at {}", begin, end));
  if (end > data.size())
    return bad(fmt::format("ends at byte {} of the data, but the file has {} (is it cut short?)", end, data.size()));
  if (end - begin != wants)
    return bad(fmt::format("has {} bytes, but {} of shape {} has {}", end - begin, name(tensor.type),
                           shape_text(tensor), wants));
  tensor.data = data.subspan(begin, wants);
  return tensor;
}

Status read_metadata(const Json& entry, std::string_view file, Part& part) {
  if (!entry.is_object()) return corrupt(file, "__metadata__ is not an object");
  for (const auto& [key, value] : entry.items()) {
    if (!value.is_string()) return corrupt(file, fmt::format("__metadata__ {} is not a string", gguf::quoted(key)));
    part.metadata.emplace_back(key, value.get<std::string>());
  }
  return {};
}

// Sorts the tensors by name; none may appear twice.
Status sort_by_name(std::vector<Tensor>& tensors, std::string_view file) {
  std::ranges::sort(tensors, {}, &Tensor::name);
  const auto twice = std::ranges::adjacent_find(tensors, {}, &Tensor::name);
  return twice == tensors.end() ? Status() : bad_tensor(file, twice->name, "appears twice");
}

// Every byte of the data must belong to one tensor.
Status check_cover(std::span<const Tensor> tensors, std::span<const std::byte> data, std::string_view file) {
  std::vector<std::uint32_t> order(tensors.size());
  std::iota(order.begin(), order.end(), 0u);
  // An empty tensor comes before the one that begins where it stands.
  std::ranges::sort(order, {},
                    [&](std::uint32_t i) { return std::pair(tensors[i].data.data(), tensors[i].data.size()); });
  const std::byte* end = data.data();
  for (const std::uint32_t i : order) {
    const Tensor& tensor = tensors[i];
    if (tensor.data.data() < end) return bad_tensor(file, tensor.name, "overlaps another tensor");
    if (tensor.data.data() > end)
      return bad_tensor(file, tensor.name,
                        fmt::format("is preceded by {} bytes that belong to no tensor", tensor.data.data() - end));
    end = tensor.data.data() + tensor.data.size();
  }
  const auto left = data.data() + data.size() - end;
  return left == 0 ? Status() : corrupt(file, fmt::format("its last {} bytes belong to no tensor", left));
}

}  // namespace

std::string_view name(Type type) { return kTypes[static_cast<std::size_t>(type)].name; }
int bytes_of(Type type) { return kTypes[static_cast<std::size_t>(type)].bytes; }

std::string shape_text(const Tensor& tensor) { return fmt::format("[{}]", fmt::join(tensor.shape, ", ")); }

Result<Part> read_part(std::span<const std::byte> bytes, std::string_view file) {
  const std::string_view text = TRY(header_text(bytes, file));
  const auto data = bytes.subspan(kLengthBytes + text.size());
  Part part;
  bool has_metadata = false;
  const auto read = parse_json_members(text, "", kMaxTensors, kHeaderLimits,
                                       [&](const std::string& member, const Json& value) -> Status {
                                         if (member != kMetadata) {
                                           part.tensors.push_back(TRY(read_tensor(member, value, data, file)));
                                           return {};
                                         }
                                         if (std::exchange(has_metadata, true))
                                           return corrupt(file, "__metadata__ appears twice");
                                         return read_metadata(value, file, part);
                                       });
  if (!read) return in_file(read.error(), fmt::format("{}: the header", file));
  TRY(sort_by_name(part.tensors, file));
  TRY(check_cover(part.tensors, data, file));
  return part;
}

namespace {

bool plain_file_name(std::string_view name) {
  const auto fine = [](char c) { return c > ' ' && c <= '~' && c != '/' && c != '\\'; };
  return name.size() > kSuffix.size() && name.size() <= 255 && name.ends_with(kSuffix) && !name.starts_with('.') &&
         std::ranges::all_of(name, fine);
}

// The number of a shard among those seen so far.
Result<int> shard_number(std::map<std::string, int>& numbers, const Json& shard, std::string_view file) {
  if (!shard.is_string()) return corrupt(file, "a shard's name is not a string");
  const auto& text = shard.get_ref<const std::string&>();
  if (const auto at = numbers.find(text); at != numbers.end()) return at->second;
  if (!plain_file_name(text))
    return corrupt(file, fmt::format("the shard {} is not a plain name that ends in {}", gguf::quoted(text), kSuffix));
  if (numbers.size() == kMaxShards) return corrupt(file, fmt::format("more than {} shards", kMaxShards));
  return numbers.emplace(text, static_cast<int>(numbers.size())).first->second;
}

// From numbers in order of appearance to places among the sorted names.
void sort_shards(const std::map<std::string, int>& numbers, Index& index) {
  std::vector<int> places(numbers.size());
  for (const auto& [shard, number] : numbers) {
    places[static_cast<std::size_t>(number)] = static_cast<int>(index.shards.size());
    index.shards.push_back(shard);
  }
  for (Index::Entry& entry : index.entries) entry.shard = places[static_cast<std::size_t>(entry.shard)];
}

bool exists(const std::string& path) {
  std::error_code ignored;
  return fs::exists(path, ignored);
}

}  // namespace

Result<Index> read_index(std::string_view text, std::string_view file) {
  Index index;
  std::map<std::string, int> numbers;
  auto rest = parse_json_members(text, "weight_map", kMaxTensors, kIndexLimits,
                                 [&](const std::string& tensor, const Json& shard) -> Status {
                                   index.entries.push_back({tensor, TRY(shard_number(numbers, shard, file))});
                                   return {};
                                 });
  if (!rest) return in_file(rest.error(), file);
  const auto map = rest->find("weight_map");
  if (!rest->is_object() || map == rest->end() || !map->is_object() || index.entries.empty())
    return corrupt(file, "there is no \"weight_map\" of tensors to files");
  sort_shards(numbers, index);
  std::ranges::sort(index.entries, {}, &Index::Entry::tensor);
  const auto twice = std::ranges::adjacent_find(index.entries, {}, &Index::Entry::tensor);
  if (twice != index.entries.end()) return bad_tensor(file, twice->tensor, "appears twice");
  return index;
}

Result<Checkpoint> Checkpoint::open(const std::string& path) {
  Checkpoint checkpoint;
  checkpoint.path_ = path;
  std::error_code ignored;
  if (!fs::is_directory(path, ignored)) {
    if (is_pickle_name(path)) return refuse_pickle(path);
    TRY(checkpoint.add(path));
    return checkpoint;
  }
  const WeightFiles found = TRY(find_weights(path));
  if (!found.index.empty()) TRY(checkpoint.add_shards(path, found.index));
  for (const std::string& file : found.files) TRY(checkpoint.add(file));
  if (found.files.size() > 1) TRY(sort_by_name(checkpoint.tensors_, path));
  return checkpoint;
}

Status Checkpoint::add(const std::string& path) {
  auto mapped = TRY(MappedFile::open(path));
  auto part = TRY(read_part(mapped.bytes(), path));
  for (Tensor& tensor : part.tensors) tensor.shard = static_cast<int>(shards_.size());
  std::ranges::move(part.tensors, std::back_inserter(tensors_));
  std::ranges::move(part.metadata, std::back_inserter(metadata_));
  shards_.push_back(std::move(mapped));
  return {};
}

Status Checkpoint::add_shards(const std::string& folder, const std::string& index_path) {
  const auto mapped = TRY(MappedFile::open(index_path));
  const auto bytes = mapped.bytes();
  if (bytes.size() > kMaxHeaderBytes)
    return corrupt(index_path, fmt::format("{} bytes; an index has at most {}", bytes.size(), kMaxHeaderBytes));
  const Index index = TRY(read_index({reinterpret_cast<const char*>(bytes.data()), bytes.size()}, index_path));
  for (std::size_t i = 0; i < index.shards.size(); ++i) {
    const auto path = (fs::path(folder) / index.shards[i]).string();
    if (!exists(path))
      return Error{Code::not_found,
                   fmt::format("{}: shard {} of {} of this model is missing", path, i + 1, index.shards.size())};
    TRY(add(path));
  }
  TRY(sort_by_name(tensors_, folder));
  for (const Index::Entry& entry : index.entries) {
    const Tensor* tensor = find(entry.tensor);
    const std::string& shard = index.shards[static_cast<std::size_t>(entry.shard)];
    if (tensor == nullptr) return bad_tensor(index_path, entry.tensor, fmt::format("is missing in {}", shard));
    if (tensor->shard != entry.shard)
      return bad_tensor(
          index_path, entry.tensor,
          fmt::format("belongs in {}, but is in {}", shard, index.shards[static_cast<std::size_t>(tensor->shard)]));
  }
  for (const Tensor& tensor : tensors_)
    if (!std::ranges::binary_search(index.entries, tensor.name, {}, &Index::Entry::tensor))
      return bad_tensor(shards_[static_cast<std::size_t>(tensor.shard)].path(), tensor.name,
                        "is not in the index: is this another model's shard?");
  return {};
}

std::uint64_t Checkpoint::bytes() const {
  std::uint64_t sum = 0;
  for (const MappedFile& shard : shards_) sum += shard.bytes().size();
  return sum;
}

const Tensor* Checkpoint::find(std::string_view name) const {
  const auto at = std::ranges::lower_bound(tensors_, name, {}, &Tensor::name);
  return at != tensors_.end() && at->name == name ? &*at : nullptr;
}

void Checkpoint::release(const Tensor& tensor) const {
  shards_[static_cast<std::size_t>(tensor.shard)].release(tensor.data);
}

}  // namespace ashlar::models::safetensors
