// Random small encoders for tests: written as a GGUF file, and computed by a plain forward pass in double precision
// that shares no code with the product.
#pragma once

#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <vector>

#include "kernels/types.h"
#include "models/formats/gguf_writer.h"
#include "models/pooling.h"

namespace ashlar::models {

struct TinyEncoderSpec {
  std::string architecture = "bert";  // or "nomic-bert"
  int layers = 2, width = 32, hidden = 48, heads = 4, vocabulary = 40, context = 64;
  int types = 2;  // 0: no embedding of types
  bool fused = false, biases = true, tanh_gelu = false;
  int pooling = 1;        // pooling_type; -1: no key
  bool dense = false;     // cls.weight
  int labels = 0;         // rows of cls.output.weight
  double deviation = -1;  // of the matrices; -1: 1 / sqrt(width)
  kernels::Type type = kernels::Type::f32;
  std::uint64_t seed = 1;
};

class TinyEncoder {
 public:
  explicit TinyEncoder(const TinyEncoderSpec& spec);

  const gguf::Writer& writer() const { return writer_; }
  gguf::Writer& writer() { return writer_; }

  // What the last layer gives for each token.
  std::vector<std::vector<double>> rows(std::span<const std::int32_t> tokens,
                                        std::span<const std::uint8_t> types) const;
  // The text's vector, or its scores.
  std::vector<double> encode(std::span<const std::int32_t> tokens, std::span<const std::uint8_t> types = {}) const;

 private:
  using Vector = std::vector<double>;
  struct Matrix {
    int rows = 0, columns = 0;
    std::vector<double> values;
    std::vector<std::byte> bytes;
  };

  void add(const std::string& name, int rows, int columns, kernels::Type type, double deviation, double mean = 0);
  bool has(const std::string& name) const { return tensors_.contains(name); }
  const Vector& values(const std::string& name) const { return tensors_.at(name).values; }
  // W x + b, of the rows from `first` on.
  Vector multiply(const std::string& name, const Vector& x, int first = 0, int count = -1) const;
  Vector norm(const std::string& name, const Vector& x) const;
  void rotate(Vector& x, int position) const;
  std::vector<Vector> attend(const std::string& layer, const std::vector<Vector>& x) const;

  TinyEncoderSpec spec_;
  std::map<std::string, Matrix> tensors_;
  gguf::Writer writer_;
};

}  // namespace ashlar::models
