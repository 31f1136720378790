#include "models/profile.h"

#include <gtest/gtest.h>

#include <algorithm>

namespace ashlar::models {
namespace {

TEST(Profile, CountsThePositionsThatRowsSee) {
  for (const int window : {0, 1, 5, 100})
    for (const int first : {0, 3, 7, 200})
      for (const int rows : {0, 1, 4, 50}) {
        std::int64_t sum = 0, begin = first + rows;
        for (int p = first; p < first + rows; ++p) {
          const int seen = window > 0 ? std::min(p + 1, window) : p + 1;
          sum += seen;
          begin = std::min<std::int64_t>(begin, p + 1 - seen);
        }
        const Seen seen = positions_seen(window, first, rows);
        EXPECT_EQ(seen.sum, sum) << window << " " << first << " " << rows;
        EXPECT_EQ(seen.together, rows == 0 ? 0 : first + rows - begin) << window << " " << first << " " << rows;
      }
}

TEST(Profile, AddsUpOverLayersAndCalls) {
  Profile profile(2);
  profile.add(Operation::norm, 0, 0.5, {});
  profile.add(Operation::norm, 0, 0.25, {});
  profile.add(Operation::norm, 2, 1, {.bytes = 3, .operations = 4});
  EXPECT_EQ(profile.at(Operation::norm, 0).calls, 2);
  EXPECT_DOUBLE_EQ(profile.at(Operation::norm, 0).seconds, 0.75);
  EXPECT_EQ(profile.at(Operation::norm, 1).calls, 0);
  EXPECT_DOUBLE_EQ(profile.total(Operation::norm).seconds, 1.75);
  EXPECT_DOUBLE_EQ(profile.total(Operation::norm).cost.operations, 4);
  EXPECT_EQ(profile.total(Operation::down).calls, 0);
}

}  // namespace
}  // namespace ashlar::models
