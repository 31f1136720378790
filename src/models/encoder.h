// A loaded model that reads texts: each goes in whole and comes out as one vector, or as a classifier's scores.
#pragma once

#include <cstdint>
#include <span>

#include "models/model.h"
#include "models/pooling.h"

namespace ashlar::models {

// Texts that are read together, each of its own length; nothing is padded.
struct EncodeStep {
  std::span<const std::int32_t> tokens;  // of all texts, one behind the other
  std::span<const std::uint8_t> types;   // of each token: which part of a pair it is in; or empty: all 0
  std::span<const int> lengths;          // of each text, at least 1; their sum is tokens.size()
  std::span<float> out;                  // [texts, outputs()], row-major
};

// Frozen after loading. encode() belongs to one thread at a time, and what it gives for a text does not depend on
// which others are read with it.
class Encoder {
 public:
  virtual ~Encoder() = default;
  virtual const Shape& shape() const = 0;
  virtual Pooling pooling() const = 0;  // never none
  // The width, or with Pooling::rank the number of scores.
  virtual int outputs() const = 0;
  // Of a step, and so of one text.
  virtual int max_tokens() const = 0;
  virtual int max_texts() const = 0;
  virtual void encode(const EncodeStep& step) = 0;
};

}  // namespace ashlar::models
