#include "models/formats/gguf.h"

#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <charconv>
#include <cstring>
#include <limits>
#include <numeric>

#include "models/formats/gguf_experts.h"

namespace ashlar::models::gguf {
namespace {

static_assert(std::endian::native == std::endian::little, "values are read as they lie");

constexpr std::uint32_t kMagic = 0x46554747;  // "GGUF"
constexpr std::uint64_t kMinKeyBytes = 8 + 4 + 1;
constexpr std::uint64_t kMinTensorBytes = 8 + 4 + 8 + 4 + 8;

template <class T>
T load_as(std::span<const std::byte> bytes) {
  T value;
  std::memcpy(&value, bytes.data(), sizeof value);
  return value;
}

// Bytes of one value of a fixed size; 0 for strings, arrays and what is no type.
std::uint64_t fixed_size(ValueType type) {
  switch (type) {
    case ValueType::u8:
    case ValueType::i8:
    case ValueType::boolean:
      return 1;
    case ValueType::u16:
    case ValueType::i16:
      return 2;
    case ValueType::u32:
    case ValueType::i32:
    case ValueType::f32:
      return 4;
    case ValueType::u64:
    case ValueType::i64:
    case ValueType::f64:
      return 8;
    case ValueType::string:
    case ValueType::array:
      return 0;
  }
  return 0;
}

// What is being read, for the error if it fails; no text is made before that.
struct Subject {
  std::string_view what;  // "key", "tensor"
  std::string_view name;  // empty until it is known

  std::string text() const { return name.empty() ? std::string(what) : fmt::format("{} {}", what, quoted(name)); }
};

// Takes values off the front of the file, never past its end.
class Reader {
 public:
  Reader(std::span<const std::byte> bytes, std::string_view file) : bytes_(bytes), file_(file) {}

  std::uint64_t at() const { return at_; }
  std::uint64_t left() const { return bytes_.size() - at_; }

  Error error(Subject subject, std::string_view what) const {
    return Error{Code::corrupt, fmt::format("{}: {} at byte {}: {}", file_, subject.text(), at_, what)};
  }

  Result<std::span<const std::byte>> take(std::uint64_t count, Subject subject) {
    if (count > left())
      return error(subject, fmt::format("needs {} bytes more, but the file ends after {}", count, left()));
    const auto taken = bytes_.subspan(at_, count);
    at_ += count;
    return taken;
  }

  template <class T>
  Result<T> number(Subject subject) {
    return load_as<T>(TRY(take(sizeof(T), subject)));
  }

  Result<std::string_view> string(Subject subject) {
    const auto length = TRY(number<std::uint64_t>(subject));
    const auto text = TRY(take(length, subject));
    return std::string_view(reinterpret_cast<const char*>(text.data()), text.size());
  }

  Result<std::string_view> name_string(Subject subject) {
    const auto text = TRY(string(subject));
    if (text.empty() || text.size() > kMaxNameBytes)
      return error(subject, fmt::format("a name of {} bytes; 1 to {} are allowed", text.size(), kMaxNameBytes));
    return text;
  }

  // `depth`: how many arrays this value stands in.
  Result<Value> value(ValueType type, Subject subject, int depth) {
    if (type == ValueType::string) {
      const auto text = TRY(string(subject));
      return Value{.type = type, .bytes = std::as_bytes(std::span(text))};
    }
    if (type == ValueType::array) return array(subject, depth);
    const std::uint64_t size = fixed_size(type);
    if (size == 0) return error(subject, fmt::format("unknown value type {}", static_cast<std::uint32_t>(type)));
    const Value value{.type = type, .bytes = TRY(take(size, subject))};
    if (type == ValueType::boolean) TRY(check_booleans(value.bytes, subject));
    return value;
  }

 private:
  Result<Value> array(Subject subject, int depth) {
    if (depth >= kMaxArrayDepth) return error(subject, fmt::format("arrays nested more than {} deep", kMaxArrayDepth));
    Value array{.type = ValueType::array};
    array.element_type = static_cast<ValueType>(TRY(number<std::uint32_t>(subject)));
    array.count = TRY(number<std::uint64_t>(subject));
    if (name(array.element_type).empty())
      return error(subject, fmt::format("unknown element type {}", static_cast<std::uint32_t>(array.element_type)));
    const std::uint64_t size = fixed_size(array.element_type);
    const std::uint64_t least = size > 0 ? size : array.element_type == ValueType::string ? 8 : 12;
    if (array.count > left() / least)
      return error(subject, fmt::format("an array of {} {} values, but the file ends after {} bytes", array.count,
                                        name(array.element_type), left()));
    if (size > 0) {
      array.bytes = TRY(take(array.count * size, subject));
      if (array.element_type == ValueType::boolean) TRY(check_booleans(array.bytes, subject));
      return array;
    }
    const std::uint64_t begin = at_;
    for (std::uint64_t i = 0; i < array.count; ++i) TRY(value(array.element_type, subject, depth + 1));
    array.bytes = bytes_.subspan(begin, at_ - begin);
    return array;
  }

  Status check_booleans(std::span<const std::byte> bytes, Subject subject) const {
    const auto wrong = std::ranges::find_if(bytes, [](std::byte b) { return b > std::byte{1}; });
    if (wrong == bytes.end()) return {};
    return error(subject, fmt::format("a bool of value {}", static_cast<int>(*wrong)));
  }

  std::span<const std::byte> bytes_;
  std::string_view file_;
  std::uint64_t at_ = 0;
};

// Indexes into `items`, by name. Sorting, not hashing: no file can make it slow.
template <class T>
std::vector<std::uint32_t> order_by_name(const std::vector<T>& items) {
  std::vector<std::uint32_t> order(items.size());
  std::iota(order.begin(), order.end(), 0u);
  std::ranges::sort(order, {}, [&](std::uint32_t i) { return std::pair(items[i].name, i); });
  return order;
}

template <class T>
const T* find_by_name(const std::vector<T>& items, const std::vector<std::uint32_t>& order, std::string_view name) {
  const auto at = std::ranges::lower_bound(order, name, {}, [&](std::uint32_t i) { return items[i].name; });
  return at != order.end() && items[*at].name == name ? &items[*at] : nullptr;
}

template <class T>
const T* find_twice(const std::vector<T>& items, const std::vector<std::uint32_t>& order) {
  const auto at = std::ranges::adjacent_find(order, {}, [&](std::uint32_t i) { return items[i].name; });
  return at == order.end() ? nullptr : &items[*at];
}

Status read_keys(Reader& in, std::uint64_t count, Part& part) {
  for (std::uint64_t i = 0; i < count; ++i) {
    const auto name = TRY(in.name_string({"a key's name", {}}));
    const Subject key{"key", name};
    const auto type = static_cast<ValueType>(TRY(in.number<std::uint32_t>(key)));
    part.keys.push_back({name, TRY(in.value(type, key, 0))});
  }
  return {};
}

// Name, dims and type; `offset` as the file says it.
Result<Tensor> read_tensor(Reader& in, std::string_view file, std::uint64_t& offset) {
  Tensor tensor;
  tensor.name = TRY(in.name_string({"a tensor's name", {}}));
  const Subject subject{"tensor", tensor.name};
  const auto rank = TRY(in.number<std::uint32_t>(subject));
  if (rank < 1 || rank > tensor.dims.size())
    return in.error(subject, fmt::format("{} dimensions; 1 to {} are allowed", rank, tensor.dims.size()));
  tensor.rank = static_cast<int>(rank);
  std::int64_t elements = 1;
  for (int i = 0; i < tensor.rank; ++i) {
    const auto dim = TRY(in.number<std::uint64_t>(subject));
    if (dim == 0) return in.error(subject, fmt::format("dimension {} is zero", i));
    // At most 4 bytes an element, so sizes in bytes fit too.
    if (dim > (std::uint64_t{1} << 60) || __builtin_mul_overflow(elements, static_cast<std::int64_t>(dim), &elements) ||
        elements > (std::int64_t{1} << 60))
      return in.error(subject, "its dimensions multiply to more than any file holds");
    tensor.dims[static_cast<std::size_t>(i)] = static_cast<std::int64_t>(dim);
  }
  const auto type = TRY(in.number<std::uint32_t>(subject));
  const kernels::TypeInfo* info = kernels::type_info(type);
  if (info == nullptr)
    return Error{Code::unsupported,
                 fmt::format("{}: {} has type {}, which this build does not read", file, subject.text(), type)};
  tensor.type = info->type;
  if (tensor.columns() % info->block != 0)
    return in.error(subject, fmt::format("rows of {} elements are not whole {} blocks of {}", tensor.columns(),
                                         info->name, info->block));
  offset = TRY(in.number<std::uint64_t>(subject));
  return tensor;
}

Status find_alignment(Part& part, std::string_view file) {
  const auto key = std::ranges::find(part.keys, "general.alignment", &Key::name);
  if (key == part.keys.end()) return {};
  const std::int64_t alignment = key->value.integer().value_or(0);
  if (alignment < 8 || !std::has_single_bit(static_cast<std::uint64_t>(alignment)))
    return Error{Code::corrupt,
                 fmt::format("{}: general.alignment is not a power of two of at least 8, but {} of type {}", file,
                             alignment, name(key->value.type))};
  part.alignment = static_cast<std::uint64_t>(alignment);
  return {};
}

// Each tensor's bytes, which must lie in the file and apart from all others'.
Status place_tensors(Part& part, const std::vector<std::uint64_t>& offsets, std::span<const std::byte> bytes,
                     std::uint64_t infos_end, std::string_view file) {
  if (part.tensors.empty()) return {};
  const auto bad = [&](const Tensor& tensor, std::string what) {
    return Error{Code::corrupt, fmt::format("{}: tensor {}: {}", file, quoted(tensor.name), what)};
  };
  const std::uint64_t padding = (part.alignment - infos_end % part.alignment) % part.alignment;
  const std::uint64_t room = bytes.size() - infos_end;
  const std::uint64_t data = room < padding ? bytes.size() : infos_end + padding;
  const std::uint64_t have = bytes.size() - data;
  for (std::size_t i = 0; i < part.tensors.size(); ++i) {
    Tensor& tensor = part.tensors[i];
    const std::uint64_t size =
        kernels::row_bytes(tensor.type, tensor.columns()) * static_cast<std::uint64_t>(tensor.rows());
    if (offsets[i] % part.alignment != 0)
      return bad(tensor, fmt::format("offset {} is not a multiple of the alignment {}", offsets[i], part.alignment));
    if (offsets[i] > have || size > have - offsets[i])
      return bad(
          tensor,
          fmt::format(
              "its {} bytes at offset {} of the data go beyond the file, which has {} bytes of data (is it cut short?)",
              size, offsets[i], have));
    tensor.data = bytes.subspan(data + offsets[i], size);
  }
  std::vector<std::uint32_t> order(part.tensors.size());
  std::iota(order.begin(), order.end(), 0u);
  std::ranges::sort(order, {}, [&](std::uint32_t i) { return offsets[i]; });
  for (std::size_t i = 1; i < order.size(); ++i) {
    const Tensor& before = part.tensors[order[i - 1]];
    const Tensor& after = part.tensors[order[i]];
    if (before.data.data() + before.data.size() > after.data.data())
      return bad(after, fmt::format("its data overlaps that of tensor {}", quoted(before.name)));
  }
  return {};
}

Status check_header(Reader& in, std::string_view file, Part& part) {
  const Subject header{"the header", {}};
  if (TRY(in.number<std::uint32_t>(header)) != kMagic)
    return Error{Code::corrupt, fmt::format("{}: not a GGUF file: it does not begin with \"GGUF\"", file)};
  part.version = TRY(in.number<std::uint32_t>(header));
  if (part.version == 2 || part.version == 3) return {};
  if (part.version != 0 && (part.version & 0xFFFF) == 0)
    return Error{Code::unsupported, fmt::format("{}: a big-endian GGUF file; only little-endian ones are read", file)};
  return Error{Code::unsupported, fmt::format("{}: GGUF version {}; versions 2 and 3 are read", file, part.version)};
}

}  // namespace

std::string_view name(ValueType type) {
  static constexpr std::string_view kNames[] = {"u8",   "i8",     "u16",   "i16", "u32", "i32", "f32",
                                                "bool", "string", "array", "u64", "i64", "f64"};
  const auto index = static_cast<std::uint32_t>(type);
  return index < std::size(kNames) ? kNames[index] : std::string_view();
}

std::optional<std::int64_t> Value::integer() const {
  switch (type) {
    case ValueType::u8:
      return load_as<std::uint8_t>(bytes);
    case ValueType::i8:
      return load_as<std::int8_t>(bytes);
    case ValueType::u16:
      return load_as<std::uint16_t>(bytes);
    case ValueType::i16:
      return load_as<std::int16_t>(bytes);
    case ValueType::u32:
      return load_as<std::uint32_t>(bytes);
    case ValueType::i32:
      return load_as<std::int32_t>(bytes);
    case ValueType::i64:
      return load_as<std::int64_t>(bytes);
    case ValueType::u64: {
      const auto value = load_as<std::uint64_t>(bytes);
      if (std::in_range<std::int64_t>(value)) return static_cast<std::int64_t>(value);
      return std::nullopt;
    }
    default:
      return std::nullopt;
  }
}

std::optional<double> Value::number() const {
  if (type == ValueType::f32) return load_as<float>(bytes);
  if (type == ValueType::f64) return load_as<double>(bytes);
  if (type == ValueType::u64) return static_cast<double>(load_as<std::uint64_t>(bytes));
  if (const auto whole = integer()) return static_cast<double>(*whole);
  return std::nullopt;
}

std::optional<bool> Value::boolean() const {
  if (type != ValueType::boolean) return std::nullopt;
  return bytes[0] != std::byte{0};
}

std::optional<std::string_view> Value::string() const {
  if (type != ValueType::string) return std::nullopt;
  return std::string_view(reinterpret_cast<const char*>(bytes.data()), bytes.size());
}

Elements::Elements(const Value& array) : type_(array.element_type), left_(array.count), bytes_(array.bytes) {
  CHECK(array.type == ValueType::array, "only arrays have elements");
}

bool Elements::next(Value& element) {
  if (left_ == 0) return false;
  --left_;
  // Vocabularies have hundreds of thousands of these. What was checked once is walked quickly.
  const bool text = type_ == ValueType::string;
  if (const std::uint64_t size = fixed_size(type_); text || size > 0) {
    CHECK(bytes_.size() >= (text ? sizeof(std::uint64_t) : size), "arrays were checked when the file was read");
    const std::uint64_t begin = text ? sizeof(std::uint64_t) : 0, count = text ? load_as<std::uint64_t>(bytes_) : size;
    CHECK(count <= bytes_.size() - begin, "arrays were checked when the file was read");
    element = Value{.type = type_, .bytes = bytes_.subspan(begin, count)};
    bytes_ = bytes_.subspan(begin + count);
    return true;
  }
  Reader in(bytes_, "");
  auto value = in.value(type_, {"element", {}}, 0);
  CHECK(value.has_value(), "arrays were checked when the file was read");
  element = *value;
  bytes_ = bytes_.subspan(in.at());
  return true;
}

std::string dims_text(const Tensor& tensor) {
  return fmt::format("[{}]", fmt::join(std::span(tensor.dims).first(static_cast<std::size_t>(tensor.rank)), ", "));
}

std::string quoted(std::string_view text) {
  constexpr std::size_t kShown = 80;
  std::string out = "'";
  for (const char c : text.substr(0, kShown)) out += c >= ' ' && c <= '~' && c != '\'' ? c : '?';
  out += text.size() > kShown ? "...'" : "'";
  return out;
}

Result<Part> read_part(std::span<const std::byte> bytes, std::string_view file) {
  Reader in(bytes, file);
  Part part;
  TRY(check_header(in, file, part));
  const Subject header{"the header", {}};
  const auto tensors = TRY(in.number<std::uint64_t>(header));
  const auto keys = TRY(in.number<std::uint64_t>(header));
  if (keys > in.left() / kMinKeyBytes || tensors > in.left() / kMinTensorBytes)
    return in.error(header, fmt::format("{} keys and {} tensors cannot stand in the {} bytes that follow", keys,
                                        tensors, in.left()));
  TRY(read_keys(in, keys, part));
  if (const Key* twice = find_twice(part.keys, order_by_name(part.keys)))
    return Error{Code::corrupt, fmt::format("{}: key {} appears twice", file, quoted(twice->name))};
  TRY(find_alignment(part, file));
  std::vector<std::uint64_t> offsets;
  for (std::uint64_t i = 0; i < tensors; ++i) {
    offsets.push_back(0);
    part.tensors.push_back(TRY(read_tensor(in, file, offsets.back())));
  }
  if (const Tensor* twice = find_twice(part.tensors, order_by_name(part.tensors)))
    return Error{Code::corrupt, fmt::format("{}: tensor {} appears twice", file, quoted(twice->name))};
  TRY(place_tensors(part, offsets, bytes, in.at(), file));
  return part;
}

namespace {

// "dir/name" of "dir/name-00002-of-00003.gguf"; none: not named like a part.
std::optional<std::string> split_stem(std::string_view path, std::int64_t count) {
  const std::string tail = fmt::format("-of-{:05}.gguf", count);
  constexpr std::size_t kNumber = 6;  // "-00002"
  if (!path.ends_with(tail) || path.size() < tail.size() + kNumber) return std::nullopt;
  const std::string_view head = path.substr(0, path.size() - tail.size());
  const std::string_view number = head.substr(head.size() - kNumber + 1);
  if (head[head.size() - kNumber] != '-' || !std::ranges::all_of(number, [](char c) { return c >= '0' && c <= '9'; }))
    return std::nullopt;
  return std::string(head.substr(0, head.size() - kNumber));
}

std::string part_path(std::string_view stem, std::int64_t number, std::int64_t count) {
  return fmt::format("{}-{:05}-of-{:05}.gguf", stem, number + 1, count);
}

// A split key of a part; `otherwise` where it is absent.
Result<std::int64_t> split_key(const Part& part, std::string_view key, std::int64_t otherwise, std::string_view file) {
  const auto at = std::ranges::find(part.keys, key, &Key::name);
  if (at == part.keys.end()) return otherwise;
  const auto value = at->value.integer();
  if (!value || *value < 0) return Error{Code::corrupt, fmt::format("{}: {} is not a count", file, key)};
  return *value;
}

// Opens one part of a split model and holds it against its place in the series.
Result<std::pair<MappedFile, Part>> open_part(const std::string& path, std::int64_t number, std::int64_t count) {
  auto file = MappedFile::open(path);
  if (!file && file.error().code == Code::not_found)
    return Error{Code::not_found, fmt::format("{}: part {} of {} of this model is missing", path, number + 1, count)};
  auto mapped = TRY(std::move(file));
  auto part = TRY(read_part(mapped.bytes(), path));
  const auto says_number = TRY(split_key(part, "split.no", 0, path));
  const auto says_count = TRY(split_key(part, "split.count", 1, path));
  if (says_number != number || says_count != count)
    return Error{Code::corrupt, fmt::format("{}: its keys call it part {} of {}, its name part {} of {}", path,
                                            says_number + 1, says_count, number + 1, count)};
  return std::pair(std::move(mapped), std::move(part));
}

}  // namespace

Result<File> File::open(const std::string& path) {
  auto mapped = TRY(MappedFile::open(path));
  auto part = TRY(read_part(mapped.bytes(), path));
  const auto count = TRY(split_key(part, "split.count", 1, path));
  File file;
  std::int64_t tensors_wanted = -1;
  if (count <= 1) {
    file.version_ = part.version;
    file.keys_ = std::move(part.keys);
    file.tensors_ = std::move(part.tensors);
    file.parts_.push_back(std::move(mapped));
  } else {
    const auto stem = split_stem(path, count);
    if (!stem)
      return Error{Code::corrupt,
                   fmt::format("{}: split.count is {}, but the file is not named like ...-00001-of-{:05}.gguf", path,
                               count, count)};
    for (std::int64_t number = 0; number < count; ++number) {
      auto [next_mapped, next] = TRY(open_part(part_path(*stem, number, count), number, count));
      if (number == 0) {
        tensors_wanted = TRY(split_key(next, "split.tensors.count", -1, next_mapped.path()));
        file.version_ = next.version;
        file.keys_ = std::move(next.keys);
      }
      for (Tensor& tensor : next.tensors) {
        tensor.part = static_cast<int>(number);
        file.tensors_.push_back(tensor);
      }
      file.parts_.push_back(std::move(next_mapped));
    }
  }
  file.path_ = file.parts_.front().path();
  if (tensors_wanted >= 0 && tensors_wanted != static_cast<std::int64_t>(file.tensors_.size()))
    return Error{Code::corrupt, fmt::format("{}: split.tensors.count is {}, but the parts hold {}", file.path(),
                                            tensors_wanted, file.tensors_.size())};
  TRY(file.index());
  return file;
}

Result<File> File::in_memory(std::vector<std::byte> bytes, std::string name) {
  File file;
  file.path_ = std::move(name);
  file.memory_ = std::move(bytes);
  auto part = TRY(read_part(file.memory_, file.path_));
  file.version_ = part.version;
  file.keys_ = std::move(part.keys);
  file.tensors_ = std::move(part.tensors);
  TRY(file.index());
  return file;
}

Result<File> File::assemble(std::string path, std::vector<std::byte> keys, std::vector<MappedFile> parts,
                            std::vector<Tensor> tensors, std::shared_ptr<const Assembly> assembly) {
  File file = TRY(in_memory(std::move(keys), std::move(path)));
  file.parts_ = std::move(parts);
  file.tensors_ = std::move(tensors);
  file.assembly_ = std::move(assembly);
  file.assembled_ = true;
  TRY(file.index());
  return file;
}

Status File::index() {
  if (assembly_ == nullptr) assembly_ = TRY(stack_old_experts(tensors_, path_));
  keys_by_name_ = order_by_name(keys_);
  tensors_by_name_ = order_by_name(tensors_);
  if (const Tensor* twice = find_twice(tensors_, tensors_by_name_))
    return Error{Code::corrupt, fmt::format("{}: tensor {} appears twice in its parts", path_, quoted(twice->name))};
  return {};
}

std::uint64_t File::bytes() const {
  std::uint64_t sum = memory_.size();
  for (const MappedFile& part : parts_) sum += part.bytes().size();
  return sum;
}

const Value* File::find(std::string_view key) const {
  const Key* found = find_by_name(keys_, keys_by_name_, key);
  return found == nullptr ? nullptr : &found->value;
}

const Tensor* File::find_tensor(std::string_view name) const { return find_by_name(tensors_, tensors_by_name_, name); }

Result<std::span<const std::byte>> File::read(const Tensor& tensor, std::vector<std::byte>& room) const {
  if (!tensor.data.empty()) return tensor.data;
  CHECK(assembly_ != nullptr, "a tensor without data is of an assembled file");
  room.resize(tensor.bytes());
  TRY(assembly_->make(tensor, room));
  return std::span<const std::byte>(room);
}

std::vector<std::span<const std::byte>> File::sources(const Tensor& tensor) const {
  if (!tensor.data.empty()) return {tensor.data};
  CHECK(assembly_ != nullptr, "a tensor without data is of an assembled file");
  return assembly_->sources(tensor);
}

void File::release(const Tensor& tensor) const {
  if (parts_.empty()) return;
  // The sources of what is made may lie in several parts.
  if (tensor.data.empty()) {
    for (const auto& source : sources(tensor))
      for (const MappedFile& part : parts_)
        if (source.data() >= part.bytes().data() && source.data() < part.bytes().data() + part.bytes().size())
          part.release(source);
    return;
  }
  parts_[static_cast<std::size_t>(tensor.part)].release(tensor.data);
}

void File::release() const {
  for (const MappedFile& part : parts_) part.release(part.bytes());
}

void File::expect_few_reads(const Tensor& tensor) const {
  if (!parts_.empty() && !tensor.data.empty())
    parts_[static_cast<std::size_t>(tensor.part)].expect_few_reads(tensor.data);
}

template <class T>
Result<std::optional<T>> File::maybe(std::string_view key) const {
  const Value* value = find(key);
  if (value == nullptr) return std::optional<T>();
  const auto wrong = [&](std::string_view expected) {
    return Error{Code::corrupt, fmt::format("{}: key {} is of type {}; {} is expected", path(), quoted(key),
                                            name(value->type), expected)};
  };
  if constexpr (std::is_same_v<T, bool>) {
    if (const auto found = value->boolean()) return found;
    return wrong("a bool");
  } else if constexpr (std::is_same_v<T, double>) {
    if (const auto found = value->number()) return found;
    return wrong("a number");
  } else if constexpr (std::is_same_v<T, std::string_view>) {
    if (const auto found = value->string()) return found;
    return wrong("a string");
  } else {
    const auto found = value->integer();
    if (!found) return wrong("a whole number");
    if (!std::in_range<T>(*found))
      return Error{Code::corrupt, fmt::format("{}: key {} is {}, which is out of range", path(), quoted(key), *found)};
    return std::optional<T>(static_cast<T>(*found));
  }
}

template <class T>
Result<T> File::need(std::string_view key) const {
  const std::optional<T> found = TRY(maybe<T>(key));
  if (!found) return Error{Code::corrupt, fmt::format("{}: key {} is missing", path(), quoted(key))};
  return *found;
}

#define ASHLAR_GGUF_GETTERS(T)                                              \
  template Result<std::optional<T>> File::maybe<T>(std::string_view) const; \
  template Result<T> File::need<T>(std::string_view) const;
ASHLAR_GGUF_GETTERS(bool)
ASHLAR_GGUF_GETTERS(std::int32_t)
ASHLAR_GGUF_GETTERS(std::int64_t)
ASHLAR_GGUF_GETTERS(double)
ASHLAR_GGUF_GETTERS(std::string_view)
#undef ASHLAR_GGUF_GETTERS

}  // namespace ashlar::models::gguf
