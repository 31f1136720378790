// What becomes of writes and of who waits for them while the database is slow or hangs.
#include "store/write_queue.h"

#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <future>
#include <optional>
#include <string>
#include <thread>
#include <utility>
#include <vector>

namespace ashlar::store {
namespace {

using std::chrono::milliseconds;

// A database whose batches last until they may end.
class WriteQueueTest : public testing::Test {
 protected:
  ~WriteQueueTest() override { end(); }
  WriteQueue& open(milliseconds patience) { return queue_.emplace(options(patience), batches()); }
  void close() { queue_.reset(); }
  void end() {
    may_end = true;
    close();
  }

  static DatabaseOptions options(milliseconds patience) {
    return {.statement_timeout = patience, .busy_timeout = patience};
  }
  WriteQueue::Batch batches() {
    return [this](std::vector<Write>& batch) {
      ++begun;
      while (!may_end) std::this_thread::sleep_for(milliseconds(1));
      for (Write& each : batch) {
        written.push_back(each.statements.front().sql);
        each.outcome = std::vector<Rows>(1);
      }
    };
  }
  static std::vector<Statement> named(const std::string& name) {
    return {{.sql = name, .args = {}, .if_unchanged = {}}};
  }
  void wait_until_begun() const {
    while (begun == 0) std::this_thread::yield();
  }

  std::atomic<bool> may_end = false;
  std::atomic<int> begun = 0;
  std::vector<std::string> written;  // the queue's thread, until it ended

 private:
  std::optional<WriteQueue> queue_;
};

TEST_F(WriteQueueTest, WhoseTurnDoesNotComeIsToldAndNotWritten) {
  WriteQueue& queue = open(milliseconds(20));
  ASSERT_TRUE(queue.write_later(named("first"), nullptr));
  wait_until_begun();
  const auto late = queue.wait_for(named("late"), false);
  ASSERT_FALSE(late);
  EXPECT_EQ(late.error().code, Code::unavailable);
  EXPECT_NE(late.error().message.find("this was not written"), std::string::npos) << late.error().message;
  ASSERT_TRUE(queue.write_later(named("second"), nullptr));
  may_end = true;
  EXPECT_TRUE(queue.wait_for(named("third"), false)) << "and all goes on when it can";
  end();
  EXPECT_EQ(written, (std::vector<std::string>{"first", "second", "third"}));
}

TEST_F(WriteQueueTest, WhoseTurnDoesNotEndIsToldThatItMayBeWritten) {
  WriteQueue& queue = open(milliseconds(10));
  const auto answer = queue.wait_for(named("first"), false);
  ASSERT_FALSE(answer);
  EXPECT_NE(answer.error().message.find("may be there or not"), std::string::npos) << answer.error().message;
}

TEST_F(WriteQueueTest, WhoDoesNotHurryWaitsAsLongAsItTakes) {
  WriteQueue& queue = open(milliseconds(5));
  auto answer = std::async(std::launch::async, [&] { return queue.wait_for(named("table"), true); });
  EXPECT_EQ(answer.wait_for(milliseconds(100)), std::future_status::timeout);
  may_end = true;
  EXPECT_TRUE(answer.get());
}

TEST_F(WriteQueueTest, DrainingWaitsUntilAllThatCameBeforeWereTold) {
  WriteQueue& queue = open(std::chrono::seconds(30));
  EXPECT_TRUE(queue.drain());
  std::atomic<int> told = 0;
  for (int i = 0; i < 3; ++i) ASSERT_TRUE(queue.write_later(named("row"), [&](const Database::Written&) { ++told; }));
  wait_until_begun();
  std::jthread release([this] { may_end = true; });
  EXPECT_TRUE(queue.drain());
  EXPECT_EQ(told, 3);
}

TEST_F(WriteQueueTest, DrainingEndsWhereTheDatabaseDoesNotAnswer) {
  WriteQueue& queue = open(milliseconds(20));
  ASSERT_TRUE(queue.write_later(named("row"), nullptr));
  const auto drained = queue.drain();
  ASSERT_FALSE(drained);
  EXPECT_EQ(drained.error().code, Code::deadline);
}

TEST_F(WriteQueueTest, HealthTellsHowManyWaitAndForHowLong) {
  WriteQueue& queue = open(milliseconds(20));
  ASSERT_TRUE(queue.write_later(named("row"), nullptr));
  wait_until_begun();
  ASSERT_TRUE(queue.write_later(named("row"), nullptr));
  EXPECT_TRUE(queue.health()) << "a moment is no trouble";
  while (queue.health()) std::this_thread::sleep_for(milliseconds(10));
  EXPECT_NE(queue.health().error().message.find("2 writes wait"), std::string::npos) << queue.health().error().message;
  may_end = true;
  while (!queue.drain()) {
  }
  EXPECT_TRUE(queue.health());
}

TEST_F(WriteQueueTest, AnEndIsNotPutOffForWritesThatTakeTooLong) {
  std::atomic<int> cancelled = 0;
  WriteQueue& queue = open(milliseconds(0));
  ASSERT_TRUE(queue.write_later(named("first"), nullptr));
  wait_until_begun();
  for (int i = 0; i < 100; ++i)
    ASSERT_TRUE(queue.write_later(named("row"), [&](const Database::Written& outcome) {
      cancelled += !outcome && outcome.error().code == Code::cancelled;
    }));
  const std::jthread release([this] {
    std::this_thread::sleep_for(milliseconds(100));
    may_end = true;
  });
  close();
  EXPECT_EQ(cancelled, 100);
  EXPECT_EQ(written, std::vector<std::string>{"first"});
}

}  // namespace
}  // namespace ashlar::store
