// GGUF versions 2 and 3, little-endian: a model file's metadata and tensors.
//
//   "GGUF" | u32 version | u64 tensors | u64 keys
//   keys:     string name | u32 type | value
//   tensors:  string name | u32 rank | u64 dims[rank], innermost first | u32 type | u64 offset
//   padding to general.alignment (32), then the data that the offsets count from
//   string:   u64 bytes | text          array: u32 element type | u64 count | elements
//
// The file is hostile: every count, length, offset and product is checked
// against the bytes that are there before it is used, and whatever a File or a
// Part hands out afterwards lies inside the file. Nothing is copied but the
// lists of names; strings, arrays and weights are views of the mapping.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/mapped_file.h"
#include "base/result.h"
#include "kernels/types.h"

namespace ashlar::kernels {
struct KeptColumns;
}

namespace ashlar::models::gguf {

enum class ValueType : std::uint32_t {
  u8 = 0,
  i8 = 1,
  u16 = 2,
  i16 = 3,
  u32 = 4,
  i32 = 5,
  f32 = 6,
  boolean = 7,
  string = 8,
  array = 9,
  u64 = 10,
  i64 = 11,
  f64 = 12,
};

// "u8", "string", ...
std::string_view name(ValueType type);

inline constexpr int kMaxArrayDepth = 4;  // arrays within arrays
inline constexpr std::size_t kMaxNameBytes = 65535;

// One metadata value, or one element of an array: a view.
struct Value {
  ValueType type = ValueType::u8;
  ValueType element_type = ValueType::u8;  // of an array
  std::uint64_t count = 0;                 // elements of an array
  std::span<const std::byte> bytes;        // a number's bytes, a string's text, an array's elements

  // The value, if it is of that kind and fits.
  std::optional<std::int64_t> integer() const;  // any whole type
  std::optional<double> number() const;         // any whole or floating type
  std::optional<bool> boolean() const;
  std::optional<std::string_view> string() const;
};

// Walks an array's elements in order.
class Elements {
 public:
  explicit Elements(const Value& array);
  // False at the end.
  bool next(Value& element);

 private:
  ValueType type_;
  std::uint64_t left_;
  std::span<const std::byte> bytes_;
};

struct Key {
  std::string_view name;
  Value value;
};

struct Tensor {
  std::string_view name;
  kernels::Type type = kernels::Type::f32;
  int rank = 0;
  std::array<std::int64_t, 4> dims{1, 1, 1, 1};  // innermost first; all at least 1
  std::span<const std::byte> data;               // empty: it is made when it is asked for, by File::read()
  int part = 0;                                  // the file of a split model that holds it
  // Column k of the rows meets element order[k] of what they are multiplied by; empty: its own. Of no GGUF file.
  std::span<const std::int32_t> order;
  const kernels::KeptColumns* kept = nullptr;  // columns that are 0 in the rows; nullptr: none. Of no GGUF file

  std::int64_t columns() const { return dims[0]; }
  std::int64_t rows() const { return dims[1] * dims[2] * dims[3]; }
  std::int64_t elements() const { return columns() * rows(); }
  std::uint64_t bytes() const { return kernels::row_bytes(type, elements()); }
};

// "[2048, 512]", innermost first.
std::string dims_text(const Tensor& tensor);

// `text` from a file, fit to stand in an error: quoted, short, no control characters.
std::string quoted(std::string_view text);

// One file.
struct Part {
  std::uint32_t version = 0;
  std::uint64_t alignment = 32;
  std::vector<Key> keys;        // in the file's order
  std::vector<Tensor> tensors;  // in the file's order
};

// `bytes` must outlive the result. `file` is what errors call it.
// corrupt: broken, or cut short; unsupported: another version or byte order, or
// a tensor type that this build does not read.
Result<Part> read_part(std::span<const std::byte> bytes, std::string_view file);

// What makes those tensors of a file put together from others that do not lie anywhere as they are. Immutable; any
// thread.
class Assembly {
 public:
  virtual ~Assembly() = default;
  // All bytes of a tensor without data. `room`: [tensor.bytes()]. Errors: what its parts hold.
  virtual Status make(const Tensor& tensor, std::span<std::byte> room) const = 0;
  // What it is made from, pieces of the parts.
  virtual std::vector<std::span<const std::byte>> sources(const Tensor& tensor) const = 0;
};

// A model: one file, all the files of a split one, or what is put together from files of another format. Immutable;
// any thread.
class File {
 public:
  // The experts of old files appear as later ones have them (gguf_experts.h).
  // `path` may be any part of a split model (name-00001-of-00003.gguf).
  // As read_part(); not_found and io as MappedFile::open().
  static Result<File> open(const std::string& path);

  // A file that exists in memory alone; `name` is what errors call it.
  static Result<File> in_memory(std::vector<std::byte> bytes, std::string name);

  // A file that exists nowhere: `keys` is one with keys alone, whose tensors have their bytes in `parts`, or are made
  // by `assembly`, which owns their names too. `path` is what errors call it.
  static Result<File> assemble(std::string path, std::vector<std::byte> keys, std::vector<MappedFile> parts,
                               std::vector<Tensor> tensors, std::shared_ptr<const Assembly> assembly);

  const std::string& path() const { return path_; }
  bool assembled() const { return assembled_; }
  std::uint32_t version() const { return version_; }
  std::uint64_t bytes() const;  // of all parts
  std::size_t files() const { return parts_.empty() ? 1 : parts_.size(); }
  // The files, each whole; none of a file in memory.
  std::span<const MappedFile> parts() const { return parts_; }

  std::span<const Key> keys() const { return keys_; }  // the first part's
  std::span<const Tensor> tensors() const { return tensors_; }

  // nullptr: there is none.
  const Value* find(std::string_view key) const;
  const Tensor* find_tensor(std::string_view name) const;

  // The value of `key` as T: bool, std::int32_t, std::int64_t, double,
  // std::string_view. corrupt: absent (need), of another type, or out of range.
  template <class T>
  Result<T> need(std::string_view key) const;
  // Empty where the key is absent.
  template <class T>
  Result<std::optional<T>> maybe(std::string_view key) const;
  // `otherwise` where the key is absent.
  template <class T>
  Result<T> get(std::string_view key, T otherwise) const {
    const std::optional<T> found = TRY(maybe<T>(key));
    return found.value_or(otherwise);
  }

  // The tensor's bytes: where they lie, or made into `room`, which must then stay as it is while they are used.
  // Errors: those of Assembly::make().
  Result<std::span<const std::byte>> read(const Tensor& tensor, std::vector<std::byte>& room) const;
  // What of the parts the tensor is made from: its data, if it lies there.
  std::vector<std::span<const std::byte>> sources(const Tensor& tensor) const;

  // Lets go of the memory that holds the tensor's bytes; reading them again
  // brings them back from the file. Nothing happens to files in memory.
  void release(const Tensor& tensor) const;
  // The same for all that the files hold.
  void release() const;
  // The tensor's bytes will be read now and then, a little of them.
  void expect_few_reads(const Tensor& tensor) const;

 private:
  Status index();

  std::string path_;  // of the first part
  std::vector<MappedFile> parts_;
  std::vector<std::byte> memory_;  // instead of parts; of an assembled file, its keys
  std::shared_ptr<const Assembly> assembly_;
  bool assembled_ = false;  // from another format; experts of an old file are put together too
  std::uint32_t version_ = 0;
  std::vector<Key> keys_;
  std::vector<Tensor> tensors_;
  std::vector<std::uint32_t> keys_by_name_, tensors_by_name_;
};

}  // namespace ashlar::models::gguf
