#include "gateway/quarantine/quarantine.h"

#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <filesystem>

namespace ashlar::gateway {
namespace {

class QuarantineTest : public testing::Test {
 protected:
  QuarantineTest()
      : folder_((std::filesystem::temp_directory_path() / ("quarantine-" + std::to_string(getpid()))).string()) {
    // Sanitizers have handlers that report and exit.
    for (const int each : {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGABRT}) std::signal(each, SIG_DFL);
  }
  ~QuarantineTest() override { std::filesystem::remove_all(folder_); }

  std::unique_ptr<Quarantine> open() {
    auto opened = Quarantine::open(folder_, nullptr);
    EXPECT_TRUE(opened) << opened.error().message;
    return std::move(*opened);
  }
  // A process that ends by `signal` while these run.
  void crash(std::initializer_list<Quarantine::Hash> running, int signal = SIGSEGV) {
    const pid_t child = fork();
    if (child == 0) {
      const auto quarantine = Quarantine::open(folder_, nullptr);
      std::vector<std::unique_ptr<Quarantine::Pass>> passes;
      for (const Quarantine::Hash hash : running)
        if (auto pass = (*quarantine)->enter(hash)) passes.push_back(std::move(*pass));
      raise(signal);
      _exit(1);
    }
    int status = 0;
    waitpid(child, &status, 0);
    EXPECT_EQ(WTERMSIG(status), signal) << "a crash stays one";
  }

  const std::string folder_;
};

TEST_F(QuarantineTest, WhoWasThereTwiceIsRefusedAndNobodyElse) {
  crash({1, 2, 2});
  {
    const auto quarantine = open();
    EXPECT_EQ(quarantine->held(), 0u);
    const auto first = quarantine->enter(1);
    ASSERT_TRUE(first);
    const auto second = quarantine->enter(2);
    ASSERT_FALSE(second) << "one suspect at a time";
    EXPECT_EQ(second.error().error.code, Code::unavailable);
    EXPECT_TRUE(quarantine->enter(3));
  }
  crash({1, 3});
  const auto quarantine = open();
  EXPECT_EQ(quarantine->held(), 1u);
  const auto refused = quarantine->enter(1);
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().error.code, Code::forbidden);
  for (const Quarantine::Hash hash : {2u, 3u, 4u}) EXPECT_TRUE(quarantine->enter(hash));
}

TEST_F(QuarantineTest, WhoCameToAnEndIsNoSuspectAndKillsAreNobodysFault) {
  crash({1});
  {
    const auto quarantine = open();
    const auto pass = quarantine->enter(1);
    ASSERT_TRUE(pass);
    (*pass)->cleared();
  }
  crash({1});
  crash({2}, SIGKILL);
  crash({2}, SIGKILL);
  const auto quarantine = open();
  EXPECT_EQ(quarantine->held(), 0u);
  EXPECT_TRUE(quarantine->enter(1));
  EXPECT_TRUE(quarantine->enter(2));
}

TEST_F(QuarantineTest, ProcessesOfOneFolderHaveAFileEach) {
  const auto first = open();
  const auto pass = first->enter(1);
  crash({2});
  crash({2});
  const auto second = open();
  EXPECT_EQ(second->held(), 1u);
  EXPECT_TRUE(second->enter(1)) << "who runs elsewhere is no suspect";
}

TEST_F(QuarantineTest, FindsARequestByItsModelAndPrompt) {
  engine::Request one{.model = "m", .prompt = {.input = std::string("hello")}};
  engine::Request other = one;
  other.stopping.max_tokens = 3;
  EXPECT_EQ(prompt_hash(one), prompt_hash(other));
  other.model = "n";
  EXPECT_NE(prompt_hash(one), prompt_hash(other));
  other = one;
  other.prompt.input = std::vector<std::int32_t>{1, 2};
  EXPECT_NE(prompt_hash(one), prompt_hash(other));
}

}  // namespace
}  // namespace ashlar::gateway
