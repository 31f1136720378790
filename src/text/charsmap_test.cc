#include "text/charsmap.h"

#include <gtest/gtest.h>

#include <cstring>
#include <random>
#include <vector>

namespace ashlar::text {
namespace {

std::string blob_of(const std::vector<std::uint32_t>& units, std::string_view strings) {
  const auto bytes = static_cast<std::uint32_t>(units.size() * 4);
  std::string blob(4 + bytes, '\0');
  std::memcpy(blob.data(), &bytes, 4);
  if (bytes > 0) std::memcpy(blob.data() + 4, units.data(), bytes);
  return blob.append(strings);
}

// "a" to "xy", and "ab" to nothing: a double array made by hand. A unit's offset
// leads to its children: index ^ offset ^ byte.
std::string small_map() {
  std::vector<std::uint32_t> units(1024);
  const auto leads_to = [](std::uint32_t offset) { return offset << 10; };
  constexpr std::uint32_t kHasValue = 1u << 8, kValue = 1u << 31;
  units[0] = leads_to(256);                            // the root: children at 256 ^ byte
  units[256 ^ 'a'] = leads_to(512) | kHasValue | 'a';  // value and children at (256 ^ 'a') ^ 512
  const std::uint32_t after_a = 256u ^ 'a' ^ 512u;
  units[after_a] = kValue | 0;  // "xy"
  units[after_a ^ 'b'] = leads_to(128) | kHasValue | 'b';
  units[after_a ^ 'b' ^ 128u] = kValue | 3;  // ""
  return blob_of(units, std::string_view("xy\0\0", 4));
}

TEST(Charsmap, ReplacesTheLongestBeginning) {
  const auto map = Charsmap::create(small_map());
  ASSERT_TRUE(map.has_value());
  EXPECT_EQ(map->longest("ac").length, 1u);
  EXPECT_EQ(map->longest("ac").replacement, "xy");
  EXPECT_EQ(map->longest("abc").length, 2u);
  EXPECT_EQ(map->longest("abc").replacement, "");
  EXPECT_EQ(map->longest("b").length, 0u);
  EXPECT_EQ(map->longest("").length, 0u);
}

TEST(Charsmap, NothingIsReplacedWithoutAMap) {
  EXPECT_EQ(Charsmap::create("")->longest("a").length, 0u);
  EXPECT_EQ(Charsmap::create(blob_of({}, "x"))->longest("a").length, 0u);
}

TEST(Charsmap, SizesThatDoNotFitAreCorrupt) {
  EXPECT_EQ(Charsmap::create("abc").error().code, Code::corrupt);
  EXPECT_EQ(Charsmap::create(std::string("\x08\0\0\0abcd", 8)).error().code, Code::corrupt);
  EXPECT_EQ(Charsmap::create(std::string("\x03\0\0\0abcd", 8)).error().code, Code::corrupt);
  EXPECT_EQ(Charsmap::create(std::string("\xFF\xFF\xFF\xFF", 4)).error().code, Code::corrupt);
}

TEST(Charsmap, AReplacementThatIsTooLongIsNone) {
  std::string blob = small_map();
  blob.resize(blob.size() - 4);
  const auto map = Charsmap::create(blob + std::string(65, 'x'));
  EXPECT_EQ(map->longest("ac").length, 0u);
  EXPECT_EQ(Charsmap::create(blob + std::string(64, 'x'))->longest("ac").replacement.size(), 64u);
}

TEST(Charsmap, ARandomTrieIsReadWithinItsBounds) {
  std::mt19937 random(5);
  for (int round = 0; round < 200; ++round) {
    std::vector<std::uint32_t> units(random() % 300);
    for (std::uint32_t& unit : units) unit = static_cast<std::uint32_t>(random());
    const auto map = Charsmap::create(blob_of(units, round % 2 == 0 ? "no end" : std::string_view("a\0", 2)));
    ASSERT_TRUE(map.has_value());
    for (int i = 0; i < 100; ++i) {
      std::string text;
      for (int n = 0; n < 8; ++n) text += static_cast<char>(random());
      EXPECT_LE(map->longest(text).length, text.size());
    }
  }
}

}  // namespace
}  // namespace ashlar::text
