// What followed the last time: finds where a text's last tokens stood before, and
// what came after them there.
//
// Positions are chained by the pair of tokens that ends there, the latest first,
// as LZ77 matchers do it: a token is added in constant time, and a look goes
// through at most kLooks places. 12 to 20 bytes a token.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace ashlar::engine {

// One thread at a time.
class NgramIndex {
 public:
  static constexpr int kShortest = 2;  // tokens that must agree
  static constexpr int kEnough = 32;   // a match as long as this is taken at once
  static constexpr int kLooks = 64;    // places that are compared

  // `before`: text that the sequence may repeat but that is no part of it.
  explicit NgramIndex(std::span<const std::int32_t> before = {});

  // `tokens`: the whole sequence; those that were not there at the last call are added.
  void follow(std::span<const std::int32_t> tokens);

  // The longest match of the sequence's end, and of equally long ones the latest.
  struct Match {
    int length = 0;  // tokens that agree, at most kEnough; 0: none
    int next = 0;    // where its continuation begins
  };
  Match find() const;

  // The first `count` tokens of the match's continuation. Where it reaches the end
  // of the text it goes on with itself: a text that repeats itself goes on so.
  void read(const Match& match, int count, std::vector<std::int32_t>& out) const;

 private:
  void add(std::int32_t token);
  void grow();
  std::size_t bucket(std::size_t position) const;
  int agreement(std::size_t earlier) const;

  std::vector<std::int32_t> text_;  // before, a gap that is no token, the sequence
  std::size_t begin_ = 0;           // of the sequence
  std::vector<std::int32_t> prev_;  // [text_] the position before with the same bucket; -1: none
  std::vector<std::int32_t> head_;  // [a power of two] the latest position of each bucket
};

}  // namespace ashlar::engine
