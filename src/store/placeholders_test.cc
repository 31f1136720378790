#include "store/placeholders.h"

#include <gtest/gtest.h>

namespace ashlar::store {
namespace {

TEST(Placeholders, AreNumberedOutsideOfQuotesAndComments) {
  const auto all = number_places("SELECT ?, '?''?', \"a?\" /* ? /* ? */ ? */, ? -- ?\n, x FROM t WHERE a=?;");
  EXPECT_EQ(all.sql, "SELECT $1, '?''?', \"a?\" /* ? /* ? */ ? */, $2 -- ?\n, x FROM t WHERE a=$3");
  EXPECT_EQ(all.places, 3u);
  EXPECT_FALSE(all.returns);
}

TEST(Placeholders, FindTheWordReturning) {
  EXPECT_TRUE(number_places("UPDATE t SET a = ? Returning a").returns);
  EXPECT_FALSE(number_places("UPDATE t SET a = 'returning'").returns);
  EXPECT_FALSE(number_places("UPDATE t SET returning_at = 1 -- returning").returns);
}

TEST(Placeholders, EndWhereATextIsBroken) {
  for (const char* sql : {"'?", "\"?", "/* ?", "-- ?", "/*", "-", "/", "'"}) {
    EXPECT_EQ(number_places(sql).sql, sql);
    EXPECT_EQ(number_places(sql).places, 0u);
  }
  EXPECT_EQ(number_places("").sql, "");
}

}  // namespace
}  // namespace ashlar::store
