#include "models/formats/gguf_writer.h"

#include <fmt/format.h>

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <memory>

namespace ashlar::models::gguf {
namespace {

constexpr std::uint64_t kAlignment = 32;

template <class T>
void put(std::string& out, T value) {
  out.append(reinterpret_cast<const char*>(&value), sizeof value);
}

void put_string(std::string& out, std::string_view text) {
  put(out, static_cast<std::uint64_t>(text.size()));
  out += text;
}

std::uint64_t padding(std::uint64_t size) { return (kAlignment - size % kAlignment) % kAlignment; }

}  // namespace

std::string& Writer::key(std::string_view name, ValueType type) {
  ++key_count_;
  put_string(keys_, name);
  put(keys_, type);
  return keys_;
}

void Writer::add(std::string_view name, bool value) {
  put(key(name, ValueType::boolean), static_cast<std::uint8_t>(value));
}
void Writer::add(std::string_view name, std::uint16_t value) { put(key(name, ValueType::u16), value); }
void Writer::add(std::string_view name, std::uint32_t value) { put(key(name, ValueType::u32), value); }
void Writer::add(std::string_view name, std::int32_t value) { put(key(name, ValueType::i32), value); }
void Writer::add(std::string_view name, std::uint64_t value) { put(key(name, ValueType::u64), value); }
void Writer::add(std::string_view name, float value) { put(key(name, ValueType::f32), value); }
void Writer::add(std::string_view name, std::string_view value) { put_string(key(name, ValueType::string), value); }

void Writer::add(std::string_view name, std::span<const std::string> value) {
  std::string& out = key(name, ValueType::array);
  put(out, ValueType::string);
  put(out, static_cast<std::uint64_t>(value.size()));
  for (const std::string& text : value) put_string(out, text);
}

void Writer::add(std::string_view name, std::span<const float> value) {
  const Value view{ValueType::array, ValueType::f32, value.size(), std::as_bytes(value)};
  add(name, view);
}

void Writer::add(std::string_view name, std::span<const std::int32_t> value) {
  const Value view{ValueType::array, ValueType::i32, value.size(), std::as_bytes(value)};
  add(name, view);
}

void Writer::add(std::string_view name, const Value& value) {
  std::string& out = key(name, value.type);
  if (value.type == ValueType::array) {
    put(out, value.element_type);
    put(out, value.count);
  }
  if (value.type == ValueType::string) put(out, static_cast<std::uint64_t>(value.bytes.size()));
  out.append(reinterpret_cast<const char*>(value.bytes.data()), value.bytes.size());
}

void Writer::add_tensor(std::string_view name, kernels::Type type, std::vector<std::int64_t> dims,
                        std::span<const std::byte> data) {
  add_tensor(name, type, std::move(dims), data.size(), [data] { return Result<std::span<const std::byte>>(data); });
}

void Writer::add_tensor(std::string_view name, kernels::Type type, std::vector<std::int64_t> dims, std::uint64_t size,
                        Produce produce) {
  tensors_.push_back({std::string(name), type, std::move(dims), size, std::move(produce)});
}

std::string Writer::head() const {
  std::string out = "GGUF";
  put(out, std::uint32_t{3});
  put(out, static_cast<std::uint64_t>(tensors_.size()));
  put(out, key_count_);
  out += keys_;
  std::uint64_t offset = 0;
  for (const Pending& tensor : tensors_) {
    put_string(out, tensor.name);
    put(out, static_cast<std::uint32_t>(tensor.dims.size()));
    for (const std::int64_t dim : tensor.dims) put(out, dim);
    put(out, tensor.type);
    put(out, offset);
    offset += tensor.size + padding(tensor.size);
  }
  out.append(padding(out.size()), '\0');
  return out;
}

Status Writer::give(const std::function<Status(std::string_view)>& put) const {
  TRY(put(head()));
  for (const Pending& tensor : tensors_) {
    const auto data = TRY(tensor.produce());
    CHECK(data.size() == tensor.size, "a tensor has the size that was announced");
    TRY(put({reinterpret_cast<const char*>(data.data()), data.size()}));
    TRY(put(std::string(padding(tensor.size), '\0')));
  }
  return {};
}

Result<std::string> Writer::bytes() const {
  std::string out;
  TRY(give([&](std::string_view piece) -> Status {
    out += piece;
    return {};
  }));
  return out;
}

Status Writer::write(const std::string& path) const {
  const auto failed = [&] {
    return Error{Code::io, fmt::format("{}: cannot be written: {}", path, std::strerror(errno))};
  };
  const std::unique_ptr<std::FILE, int (*)(std::FILE*)> file(std::fopen(path.c_str(), "wb"), std::fclose);
  if (!file) return failed();
  TRY(give([&](std::string_view piece) -> Status {
    if (std::fwrite(piece.data(), 1, piece.size(), file.get()) != piece.size()) return failed();
    return {};
  }));
  if (std::fflush(file.get()) != 0) return failed();
  return {};
}

Status Writer::write_split(const std::string& prefix, int count) const {
  const auto parts = static_cast<std::size_t>(count);
  for (std::size_t number = 0; number < parts; ++number) {
    Writer part;
    if (number == 0) {
      part.keys_ = keys_;
      part.key_count_ = key_count_;
    }
    part.add("split.no", static_cast<std::uint16_t>(number));
    part.add("split.count", static_cast<std::uint16_t>(count));
    part.add("split.tensors.count", static_cast<std::int32_t>(tensors_.size()));
    const std::size_t begin = tensors_.size() * number / parts, end = tensors_.size() * (number + 1) / parts;
    part.tensors_.assign(tensors_.begin() + static_cast<std::ptrdiff_t>(begin),
                         tensors_.begin() + static_cast<std::ptrdiff_t>(end));
    TRY(part.write(fmt::format("{}-{:05}-of-{:05}.gguf", prefix, number + 1, count)));
  }
  return {};
}

}  // namespace ashlar::models::gguf
