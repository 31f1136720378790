#include "gateway/quarantine/quarantine.h"

#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <filesystem>
#include <functional>
#include <set>
#include <thread>

#include "base/threads.h"

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
    crash(running, signal, [signal] { raise(signal); });
  }
  void crash(std::initializer_list<Quarantine::Hash> running, int signal, const std::function<void()>& how) {
    const pid_t child = fork();
    if (child == 0) {
      const auto quarantine = Quarantine::open(folder_, nullptr);
      std::vector<std::unique_ptr<Quarantine::Pass>> passes;
      for (const Quarantine::Hash hash : running)
        if (auto pass = (*quarantine)->enter(hash)) passes.push_back(std::move(*pass));
      how();
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

// Until the stack ends.
int dig(int depth) {
  volatile char ground[64 << 10];
  ground[0] = static_cast<char>(depth);
  return depth < 0 ? 0 : dig(depth + 1) + ground[0];
}

TEST_F(QuarantineTest, AStackThatOverflowsIsACrash) {
  for (int i = 0; i < 2; ++i)
    crash({1}, SIGSEGV, [] {
      std::thread([] {
        begin_thread("deep");
        dig(0);
      }).join();
    });
  EXPECT_EQ(open()->held(), 1u);
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

TEST_F(QuarantineTest, FindsTextsToReadByTheirBounds) {
  using Inputs = std::vector<engine::TextOrIds>;
  const auto hash = [](Inputs inputs) { return prompt_hash(engine::EmbedRequest{.model = "m", .inputs = inputs}); };
  std::set<std::uint64_t> seen;
  for (const Inputs& each : {Inputs{"ab"}, Inputs{"a", "b"}, Inputs{"b", "a"}, Inputs{"ab", ""}, Inputs{},
                             Inputs{std::vector<std::int32_t>{'a'}}, Inputs{std::string("a\0\0\0", 4)}}) {
    EXPECT_TRUE(seen.insert(hash(each)).second);
    EXPECT_EQ(hash(each), hash(each));
  }
  const engine::RerankRequest pair{.model = "m", .query = "a", .documents = {"b"}};
  engine::RerankRequest other = pair;
  other.raw_scores = true;
  EXPECT_EQ(prompt_hash(pair), prompt_hash(other));
  other.documents = {"b", ""};
  EXPECT_NE(prompt_hash(pair), prompt_hash(other));
}

class Reader final : public engine::Embedder, public engine::Reranker {
 public:
  void embed(engine::EmbedRequest, Embedder::Done done) override { embedded.push_back(std::move(done)); }
  void rerank(engine::RerankRequest, Reranker::Done done) override { ranked.push_back(std::move(done)); }
  std::vector<Embedder::Done> embedded;
  std::vector<Reranker::Done> ranked;
};

TEST_F(QuarantineTest, TextsAreReadUnderItAsPromptsAre) {
  const engine::EmbedRequest texts{.model = "m", .inputs = {std::string("a")}};
  const engine::RerankRequest pair{.model = "m", .query = "a", .documents = {"b"}};
  crash({prompt_hash(texts), prompt_hash(pair)});
  {
    const auto quarantine = open();
    Reader reader;
    const auto embedder = guarded(static_cast<engine::Embedder&>(reader), *quarantine);
    const auto reranker = guarded(static_cast<engine::Reranker&>(reader), *quarantine);
    int answers = 0;
    std::vector<Code> refused;
    const auto embedded = [&](const auto& answer) {
      answer ? void(++answers) : refused.push_back(answer.error().error.code);
    };
    embedder->embed(texts, embedded);
    reranker->rerank(pair, embedded);  // the other suspect waits
    EXPECT_EQ(refused, std::vector{Code::unavailable});
    ASSERT_EQ(reader.embedded.size(), 1u);
    reader.embedded[0](std::unexpected(engine::Generator::Refusal{.error = {Code::cancelled, "left"}}));
    reranker->rerank(pair, embedded);
    ASSERT_EQ(reader.ranked.size(), 1u);
    reader.ranked[0](engine::Ranking{});
    EXPECT_EQ(answers, 1);
  }
  crash({prompt_hash(texts), prompt_hash(pair)});
  const auto after = open();
  EXPECT_EQ(after->held(), 1u) << "who was read to the end was no suspect any more";
  EXPECT_FALSE(after->enter(prompt_hash(texts)));
}

}  // namespace
}  // namespace ashlar::gateway
