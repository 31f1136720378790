// For tests: checkpoints as the published quantizers write them, packed bit by bit from the layouts' descriptions.
// Shares no code with the readers.
#pragma once

#include <unistd.h>

#include <cmath>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <random>
#include <string>
#include <vector>

namespace ashlar::models::packing {

using Bytes = std::vector<std::uint8_t>;

template <class T>
Bytes bytes_of(const std::vector<T>& values) {
  Bytes out(values.size() * sizeof(T));
  if (!values.empty()) std::memcpy(out.data(), values.data(), out.size());
  return out;
}

struct Entry {
  std::string name, type;
  std::vector<std::int64_t> shape;
  Bytes data;
};

// A folder of its own, gone with its owner.
class Folder {
 public:
  explicit Folder(const std::string& name)
      : path_(std::filesystem::temp_directory_path() / ("ashlar_" + name + "_" + std::to_string(getpid()))) {
    std::filesystem::remove_all(path_);
    std::filesystem::create_directories(path_);
  }
  ~Folder() { std::filesystem::remove_all(path_); }
  Folder(const Folder&) = delete;
  Folder& operator=(const Folder&) = delete;

  std::string path() const { return path_; }
  void write(const std::string& name, std::string_view text) const {
    std::ofstream(path_ / name, std::ios::binary) << text;
  }
  void write_weights(const std::vector<Entry>& entries) const {
    std::string header = "{", data;
    for (const Entry& entry : entries) {
      if (header.size() > 1) header += ",";
      header += "\"" + entry.name + "\":{\"dtype\":\"" + entry.type + "\",\"shape\":[";
      for (std::size_t i = 0; i < entry.shape.size(); ++i)
        header += (i > 0 ? "," : "") + std::to_string(entry.shape[i]);
      header += "],\"data_offsets\":[" + std::to_string(data.size()) + "," +
                std::to_string(data.size() + entry.data.size()) + "]}";
      data.append(reinterpret_cast<const char*>(entry.data.data()), entry.data.size());
    }
    header += "}";
    const std::uint64_t size = header.size();
    std::string file(reinterpret_cast<const char*>(&size), 8);
    write("model.safetensors", file + header + data);
  }

 private:
  std::filesystem::path path_;
};

// Codes with a scale and a zero for each group of columns: w = scale * (code - zero).
struct Codes {
  int rows, columns, groups;
  std::vector<int> code;            // [rows][columns]
  std::vector<float> scale;         // [rows][groups]
  std::vector<int> zero;            // [rows][groups]
  std::vector<std::int32_t> group;  // [columns]

  int at(int r, int c) const { return code[static_cast<std::size_t>(r * columns + c)]; }
  float scale_at(int r, int g) const { return scale[static_cast<std::size_t>(r * groups + g)]; }
  int zero_at(int r, int g) const { return zero[static_cast<std::size_t>(r * groups + g)]; }
  std::vector<double> values() const {
    std::vector<double> out;
    for (int r = 0; r < rows; ++r)
      for (int c = 0; c < columns; ++c) {
        const int g = group[static_cast<std::size_t>(c)];
        out.push_back(double{scale_at(r, g)} * (at(r, c) - zero_at(r, g)));
      }
    return out;
  }
};

// A number that f16 holds.
inline float short_float(float value) {
  int exponent = 0;
  const float fraction = std::frexp(value, &exponent);
  return std::ldexp(std::nearbyint(fraction * 1024) / 1024, exponent);
}

inline std::uint16_t half_of(float value) {  // of a normal one that f16 holds
  int exponent = 0;
  const double fraction = std::frexp(std::abs(double{value}), &exponent);
  if (value == 0) return 0;
  return static_cast<std::uint16_t>((value < 0 ? 0x8000 : 0) | (exponent + 14) << 10 |
                                    (static_cast<int>(fraction * 2048) & 1023));
}

inline std::uint16_t bfloat_of(float value) {
  std::uint32_t bits;
  std::memcpy(&bits, &value, 4);
  return static_cast<std::uint16_t>(bits >> 16);
}

inline Codes random_codes(int rows, int columns, int group, int bits, bool symmetric, unsigned seed) {
  std::mt19937 random(seed);
  const int size = group > 0 ? group : columns;
  Codes out{.rows = rows, .columns = columns, .groups = (columns + size - 1) / size};
  for (int i = 0; i < rows * columns; ++i) out.code.push_back(static_cast<int>(random() % (1u << bits)));
  for (int i = 0; i < rows * out.groups; ++i) {
    out.scale.push_back(short_float(0.002f + 0.0001f * static_cast<float>(random() % 200)));
    out.zero.push_back(symmetric ? 1 << (bits - 1) : static_cast<int>(random() % (1u << bits)));
  }
  for (int c = 0; c < columns; ++c) out.group.push_back(c / size);
  return out;
}

// The nearest codes of given weights.
inline Codes quantized(const std::vector<double>& w, int rows, int columns, int group, int bits, bool symmetric) {
  Codes out = random_codes(rows, columns, group, bits, symmetric, 1);
  const int size = group > 0 ? group : columns, top = (1 << bits) - 1;
  for (int r = 0; r < rows; ++r)
    for (int g = 0; g < out.groups; ++g) {
      double low = 0, high = 0;
      for (int c = g * size; c < std::min(columns, (g + 1) * size); ++c) {
        low = std::min(low, w[static_cast<std::size_t>(r * columns + c)]);
        high = std::max(high, w[static_cast<std::size_t>(r * columns + c)]);
      }
      const double reach = symmetric ? 2 * std::max(-low, high) : high - low;
      const float scale = short_float(static_cast<float>(reach / top));
      const int zero = symmetric ? 1 << (bits - 1) : static_cast<int>(std::nearbyint(-low / scale));
      out.scale[static_cast<std::size_t>(r * out.groups + g)] = scale;
      out.zero[static_cast<std::size_t>(r * out.groups + g)] = zero;
      for (int c = g * size; c < std::min(columns, (g + 1) * size); ++c) {
        const double code = std::nearbyint(w[static_cast<std::size_t>(r * columns + c)] / scale) + zero;
        out.code[static_cast<std::size_t>(r * columns + c)] =
            static_cast<int>(std::min<double>(std::max(code, 0.0), top));
      }
    }
  return out;
}

// A stream of bits over words that lie `stride` words apart.
inline void put_bits(std::vector<std::uint32_t>& words, std::size_t first, std::size_t stride, int index, int bits,
                     int value) {
  for (int b = 0; b < bits; ++b) {
    const auto at = static_cast<std::size_t>(index * bits + b);
    if ((value >> b & 1) != 0) words[first + at / 32 * stride] |= 1u << at % 32;
  }
}

inline std::vector<Entry> gptq(const std::string& module, const Codes& w, int bits, bool v2, bool with_index = true) {
  const auto rows = static_cast<std::size_t>(w.rows);
  std::vector<std::uint32_t> qweight(rows * static_cast<std::size_t>(w.columns * bits / 32));
  const auto zero_words = static_cast<std::size_t>(w.rows * bits / 32);
  std::vector<std::uint32_t> qzeros(zero_words * static_cast<std::size_t>(w.groups));
  std::vector<std::uint16_t> scales;
  for (int r = 0; r < w.rows; ++r)
    for (int c = 0; c < w.columns; ++c) put_bits(qweight, static_cast<std::size_t>(r), rows, c, bits, w.at(r, c));
  for (int g = 0; g < w.groups; ++g)
    for (int r = 0; r < w.rows; ++r) {
      const int stored = v2 ? w.zero_at(r, g) : (w.zero_at(r, g) - 1) & ((1 << bits) - 1);
      put_bits(qzeros, zero_words * static_cast<std::size_t>(g), 1, r, bits, stored);
      scales.push_back(half_of(w.scale_at(r, g)));
    }
  std::vector<Entry> out{{module + ".qweight", "I32", {w.columns * bits / 32, w.rows}, bytes_of(qweight)},
                         {module + ".qzeros", "I32", {w.groups, w.rows * bits / 32}, bytes_of(qzeros)},
                         {module + ".scales", "F16", {w.groups, w.rows}, bytes_of(scales)}};
  if (with_index) out.push_back({module + ".g_idx", "I32", {w.columns}, bytes_of(w.group)});
  return out;
}

inline std::vector<Entry> awq(const std::string& module, const Codes& w) {
  const int order[8] = {0, 2, 4, 6, 1, 3, 5, 7}, words = w.rows / 8;
  std::vector<std::uint32_t> qweight, qzeros;
  std::vector<std::uint16_t> scales;
  const auto word = [&](auto code_of, int first) {
    std::uint32_t value = 0;
    for (int n = 0; n < 8; ++n) value |= static_cast<std::uint32_t>(code_of(first + order[n])) << 4 * n;
    return value;
  };
  for (int c = 0; c < w.columns; ++c)
    for (int i = 0; i < words; ++i) qweight.push_back(word([&](int r) { return w.at(r, c); }, 8 * i));
  for (int g = 0; g < w.groups; ++g) {
    for (int i = 0; i < words; ++i) qzeros.push_back(word([&](int r) { return w.zero_at(r, g); }, 8 * i));
    for (int r = 0; r < w.rows; ++r) scales.push_back(half_of(w.scale_at(r, g)));
  }
  return {{module + ".qweight", "I32", {w.columns, words}, bytes_of(qweight)},
          {module + ".qzeros", "I32", {w.groups, words}, bytes_of(qzeros)},
          {module + ".scales", "F16", {w.groups, w.rows}, bytes_of(scales)}};
}

// pack-quantized; scales that bf16 holds.
inline std::vector<Entry> packed(const std::string& module, const Codes& w, int bits, bool zeros, bool index) {
  const int per = 32 / bits, words = (w.columns + per - 1) / per, zero_rows = (w.rows + per - 1) / per;
  std::vector<std::uint32_t> codes(static_cast<std::size_t>(w.rows * words));
  std::vector<std::uint32_t> points(static_cast<std::size_t>(zero_rows * w.groups));
  std::vector<std::uint16_t> scales;
  for (int r = 0; r < w.rows; ++r) {
    for (int c = 0; c < w.columns; ++c)
      codes[static_cast<std::size_t>(r * words + c / per)] |= static_cast<std::uint32_t>(w.at(r, c))
                                                              << bits * (c % per);
    for (int g = 0; g < w.groups; ++g) {
      points[static_cast<std::size_t>(r / per * w.groups + g)] |= static_cast<std::uint32_t>(w.zero_at(r, g))
                                                                  << bits * (r % per);
      scales.push_back(bfloat_of(w.scale_at(r, g)));
    }
  }
  std::vector<Entry> out{
      {module + ".weight_packed", "I32", {w.rows, words}, bytes_of(codes)},
      {module + ".weight_scale", "BF16", {w.rows, w.groups}, bytes_of(scales)},
      {module + ".weight_shape", "I64", {2}, bytes_of(std::vector<std::int64_t>{w.rows, w.columns})}};
  if (zeros) out.push_back({module + ".weight_zero_point", "I32", {zero_rows, w.groups}, bytes_of(points)});
  if (index) out.push_back({module + ".weight_g_idx", "I32", {w.columns}, bytes_of(w.group)});
  return out;
}

// 8-bit floats, bit by bit from the definition.
inline double e4m3(int code) {
  const int exponent = code >> 3 & 15, fraction = code & 7;
  const double size = exponent == 0 ? std::ldexp(fraction, -9) : std::ldexp(8 + fraction, exponent - 10);
  return (code & 128) != 0 ? -size : size;
}

inline constexpr double kNf4Values[16] = {-1.0,
                                          -0.6961928009986877,
                                          -0.5250730514526367,
                                          -0.39491748809814453,
                                          -0.28444138169288635,
                                          -0.18477343022823334,
                                          -0.09105003625154495,
                                          0.0,
                                          0.07958029955625534,
                                          0.16093020141124725,
                                          0.24611230194568634,
                                          0.33791524171829224,
                                          0.44070982933044434,
                                          0.5626170039176941,
                                          0.7229568362236023,
                                          1.0};

}  // namespace ashlar::models::packing
