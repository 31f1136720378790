#include "base/nearest.h"

#include <gtest/gtest.h>

#include <vector>

namespace ashlar {
namespace {

TEST(DidYouMean, NamesTheNearestWordOrNone) {
  const std::vector<std::string> known = {"models", "kind", "url", "api_key"};
  EXPECT_EQ(did_you_mean("modles", known), "; did you mean 'models'?");
  EXPECT_EQ(did_you_mean("api-key", known), "; did you mean 'api_key'?");
  EXPECT_EQ(did_you_mean("knd", known), "; did you mean 'kind'?");
  EXPECT_EQ(did_you_mean("weather", known), "");
  EXPECT_EQ(did_you_mean("", known), "");
  EXPECT_EQ(did_you_mean(std::string(1000, 'x'), known), "");
  EXPECT_EQ(did_you_mean("url", {}), "");
}

}  // namespace
}  // namespace ashlar
