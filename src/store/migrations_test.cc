#include "store/migrations.h"

#include <gtest/gtest.h>

#include <atomic>
#include <filesystem>
#include <thread>

#include "store/databases_for_test.h"

namespace ashlar::store {
namespace {

class Migrations : public testing::TestWithParam<Dialect> {
 protected:
  std::unique_ptr<Database> open() {
    auto opened = open_database(place_.where());
    EXPECT_TRUE(opened) << opened.error().message;
    return opened ? *std::move(opened) : nullptr;
  }
  // Copies that were put beside the file.
  std::vector<std::string> copies() const {
    std::vector<std::string> all;
    if (GetParam() == Dialect::sqlite)
      for (const auto& each : std::filesystem::directory_iterator(std::filesystem::path(place_.where()).parent_path()))
        if (each.path().string().find(".before-") != std::string::npos) all.push_back(each.path());
    return all;
  }

  PlaceForTest place_{GetParam()};
  const Schema first_{.room = "keys", .steps = {{"CREATE TABLE k (n $IDENTITY, id TEXT UNIQUE, h $BYTES)"}}};
  const Schema second_{.room = "keys",
                       .steps = {first_.steps[0], {"ALTER TABLE k ADD COLUMN note TEXT", "UPDATE k SET note = 'old'"}}};
};

INSTANTIATE_TEST_SUITE_P(Both, Migrations, testing::Values(Dialect::sqlite, Dialect::postgres),
                         [](const auto& each) { return each.param == Dialect::sqlite ? "Sqlite" : "Postgres"; });

TEST_P(Migrations, GoForwardAStepAtATimeWithACopyBefore) {
  const auto database = open();
  EXPECT_TRUE(schema_versions(*database)->empty());
  const Schema other{.room = "usage", .steps = {{"CREATE TABLE u (id TEXT)"}}};
  const Schema all[] = {first_, other};
  ASSERT_TRUE(migrate(*database, all));
  ASSERT_TRUE(migrate(*database, all));
  EXPECT_TRUE(copies().empty()) << "nothing was there that could be lost";
  const Values row = {std::string("a"), Blob{"\x01"}};
  ASSERT_TRUE(database->transact({{.sql = "INSERT INTO k (id, h) VALUES (?, ?)", .args = row}}));
  const auto done = migrate(*database, {&second_, 1});
  ASSERT_TRUE(done) << done.error().message;
  const auto rows = database->query("SELECT n, id, h, note FROM k");
  ASSERT_TRUE(rows) << rows.error().message;
  EXPECT_EQ(rows->rows, (std::vector<Values>{{std::int64_t{1}, row[0], row[1], std::string("old")}}));
  const auto versions = schema_versions(*database);
  ASSERT_TRUE(versions);
  ASSERT_EQ(versions->size(), 2u);
  EXPECT_EQ(versions->at(0).version, 2);
  if (GetParam() != Dialect::sqlite) return;
  ASSERT_EQ(copies().size(), 1u);
  auto copy = open_database(copies()[0]);
  ASSERT_TRUE(copy) << copy.error().message;
  EXPECT_EQ(schema_versions(**copy)->at(0).version, 1);
  EXPECT_EQ((*copy)->query("SELECT id FROM k")->rows.size(), 1u);
}

TEST_P(Migrations, AStepThatFailsLeavesNothing) {
  const auto database = open();
  Schema broken = second_;
  broken.steps[1].push_back("ALTER TABLE nowhere ADD COLUMN x TEXT");
  const auto failed = migrate(*database, {&broken, 1});
  ASSERT_FALSE(failed);
  EXPECT_NE(failed.error().message.find("stays at 1"), std::string::npos) << failed.error().message;
  EXPECT_FALSE(database->query("SELECT note FROM k")) << "the whole step is undone";
  ASSERT_TRUE(migrate(*database, {&second_, 1}));
  EXPECT_TRUE(database->query("SELECT note FROM k"));
}

TEST_P(Migrations, ADatabaseOfANewerProgramIsRefused) {
  const auto database = open();
  ASSERT_TRUE(migrate(*database, {&second_, 1}));
  EXPECT_TRUE(copies().empty()) << "a new one is not copied between its first steps";
  const auto refused = migrate(*database, {&first_, 1});
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code, Code::unsupported);
  EXPECT_NE(refused.error().message.find("newer Ashlar: its 'keys' has version 2, and this program knows 1"),
            std::string::npos)
      << refused.error().message;
}

TEST_P(Migrations, ManyProgramsAtOnceTakeEachStepOnce) {
  Schema schema{.room = "race", .steps = {{"CREATE TABLE r (v BIGINT)", "INSERT INTO r VALUES (0)"}}};
  for (int i = 0; i < 5; ++i) schema.steps.push_back({"UPDATE r SET v = v + 1"});
  std::vector<std::unique_ptr<Database>> databases;
  for (int i = 0; i < 4; ++i) databases.push_back(open());
  {
    std::vector<std::jthread> threads;
    for (const auto& database : databases)
      threads.emplace_back([&schema, &database] {
        const auto done = migrate(*database, {&schema, 1});
        EXPECT_TRUE(done) << done.error().message;
      });
  }
  EXPECT_EQ(as_int(databases[0]->query("SELECT v FROM r")->rows.at(0).at(0)), 5);
}

}  // namespace
}  // namespace ashlar::store
