// Safetensors: the weights of a Hugging Face folder, in one file or in shards.
//
//   u64 header bytes, little-endian | header: a JSON object | data, to the end of the file
//   header:  {"NAME": {"dtype": "BF16", "shape": [rows, columns], "data_offsets": [begin, end]}, ...,
//             "__metadata__": {"KEY": "TEXT", ...}}
//
// Offsets count from the data's first byte; the tensors cover the data without
// a hole or an overlap. Shapes are outermost first. Nothing promises that
// tensors are aligned. Format: github.com/huggingface/safetensors.
//
// The file is hostile: whatever a Part or a Checkpoint hands out afterwards lies
// inside the file and is as large as its shape and type say. Pickles and zip
// archives are refused by name and never opened.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/mapped_file.h"
#include "base/result.h"

namespace ashlar::models::safetensors {

enum class Type : std::uint8_t { f64, f32, f16, bf16, f8_e4m3, f8_e5m2, i64, i32, i16, i8, u64, u32, u16, u8, boolean };

// "BF16", "F8_E4M3", ...: as the format calls it.
std::string_view name(Type type);
int bytes_of(Type type);  // of one element

inline constexpr std::uint64_t kMaxHeaderBytes = 100'000'000;  // the reference reader's own bound
inline constexpr std::size_t kMaxTensors = 1 << 20;            // of one file, and of one index
inline constexpr std::size_t kMaxRank = 8;
inline constexpr std::size_t kMaxShards = 4096;

struct Tensor {
  std::string name;
  Type type = Type::f32;
  std::vector<std::int64_t> shape;  // outermost first; empty: one number. 0 is possible
  std::span<const std::byte> data;  // row-major, not aligned
  int shard = 0;                    // the file that holds it

  std::int64_t elements() const { return static_cast<std::int64_t>(data.size()) / bytes_of(type); }
};

// "[2048, 512]", outermost first.
std::string shape_text(const Tensor& tensor);

// One file.
struct Part {
  std::vector<Tensor> tensors;                                // by their names
  std::vector<std::pair<std::string, std::string>> metadata;  // in the file's order
};

// `bytes` must outlive the result. `file` is what errors call it.
// corrupt: broken, cut short, or with bytes that belong to no tensor;
// unsupported: a type that this build does not read, or another format.
Result<Part> read_part(std::span<const std::byte> bytes, std::string_view file);

// model.safetensors.index.json: which shard holds which tensor.
struct Index {
  struct Entry {
    std::string tensor;
    int shard;
  };
  std::vector<std::string> shards;  // plain file names, sorted
  std::vector<Entry> entries;       // by tensor
};

// corrupt: not such an index, or with a shard that is not a plain file name.
Result<Index> read_index(std::string_view text, std::string_view file);

// A model's tensors: one file, or all the shards of a folder. Immutable; any thread.
class Checkpoint {
 public:
  // `path`: a file, or a folder (weight_files.h). As read_part(), read_index() and
  // find_weights(); not_found: a shard is missing; corrupt: shards and index disagree.
  static Result<Checkpoint> open(const std::string& path);

  const std::string& path() const { return path_; }  // as given to open()
  std::uint64_t bytes() const;                       // of all files
  std::span<const MappedFile> shards() const { return shards_; }
  std::span<const Tensor> tensors() const { return tensors_; }  // by their names
  // Of all files; the first shard's come first.
  std::span<const std::pair<std::string, std::string>> metadata() const { return metadata_; }

  // nullptr: there is none.
  const Tensor* find(std::string_view name) const;

  // The files, for who keeps them and the tensors' bytes from now on; shards() is empty then.
  std::vector<MappedFile> take_shards() { return std::exchange(shards_, {}); }

  // Lets go of the memory that holds the tensor's bytes; reading them again
  // brings them back from the file.
  void release(const Tensor& tensor) const;

 private:
  Status add(const std::string& path);
  Status add_shards(const std::string& folder, const std::string& index_path);

  std::string path_;
  std::vector<MappedFile> shards_;
  std::vector<Tensor> tensors_;
  std::vector<std::pair<std::string, std::string>> metadata_;
};

}  // namespace ashlar::models::safetensors
