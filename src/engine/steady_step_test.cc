// What the engine thread does besides the forward pass while answers run: it
// allocates nothing but what it hands to the sinks.
#if !__has_feature(thread_sanitizer)  // it has operators new and delete of its own
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <deque>
#include <new>

#include "engine/fakes_for_test.h"

namespace {
thread_local std::uint64_t allocations = 0;  // by this thread

void* allocate(std::size_t bytes) noexcept {
  ++allocations;
  return std::malloc(bytes);
}
void* allocate_or_throw(std::size_t bytes) {
  if (void* memory = allocate(bytes)) return memory;
  throw std::bad_alloc();
}
}  // namespace

// All that take or give back plain memory, so that no two allocators meet.
void* operator new(std::size_t bytes) { return allocate_or_throw(bytes); }
void* operator new[](std::size_t bytes) { return allocate_or_throw(bytes); }
void* operator new(std::size_t bytes, const std::nothrow_t&) noexcept { return allocate(bytes); }
void* operator new[](std::size_t bytes, const std::nothrow_t&) noexcept { return allocate(bytes); }
void operator delete(void* memory) noexcept { std::free(memory); }
void operator delete[](void* memory) noexcept { std::free(memory); }
void operator delete(void* memory, std::size_t) noexcept { std::free(memory); }
void operator delete[](void* memory, std::size_t) noexcept { std::free(memory); }
void operator delete(void* memory, const std::nothrow_t&) noexcept { std::free(memory); }
void operator delete[](void* memory, const std::nothrow_t&) noexcept { std::free(memory); }

namespace ashlar::engine {
namespace {

// Says the letters of the alphabet, and how many allocations its caller made between two passes.
class LetterModel : public models::Model {
 public:
  LetterModel() {
    shape_.architecture = "letters";
    shape_.vocabulary = fake::kVocabulary;
    shape_.context = 8192;
    between.reserve(1 << 17);
  }
  const models::Shape& shape() const override { return shape_; }
  Bytes kv_block_bytes(models::KvType) const override { return {1024}; }
  Result<std::unique_ptr<models::KvStore>> make_kv_store(int blocks, models::KvType) const override {
    return std::make_unique<fake::KvStore>(blocks);
  }
  void forward(const models::Step& step, models::KvStore&) override {
    const std::uint64_t since = allocations - before_;
    std::ranges::fill(step.logits, -1.0F);
    for (std::size_t row = 0; row < step.logit_rows.size(); ++row)
      step.logits[row * fake::kVocabulary + 'a' + between.size() % 26] = 1;
    between.push_back({static_cast<int>(step.tokens.size()), since});
    before_ = allocations;
  }

  struct Between {
    int rows = 0;
    std::uint64_t allocations = 0;
  };
  std::vector<Between> between;

 private:
  models::Shape shape_;
  std::uint64_t before_ = 0;
};

class DeafSink : public Sink {
 public:
  void on(Event event) override {
    if (!std::holds_alternative<Finished>(event)) return;
    std::lock_guard lock(mutex_);
    finished_ = true;
    changed_.notify_all();
  }
  void wait() {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] { return finished_; });
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  bool finished_ = false;
};

TEST(SteadyStep, AllocatesOnlyWhatItHandsOver) {
  constexpr std::uint64_t kStreams = 16;
  constexpr int kTokens = 6000;  // long enough that all run side by side for a while, whenever they came in
  for (const Sampling& sampling :
       {Sampling{.temperature = 0}, Sampling{.temperature = 0.8F, .top_p = 0.9F, .seed = 1},
        Sampling{.temperature = 0.8F, .top_k = 40, .top_p = 0.9F, .min_p = 0.05F, .seed = 1}}) {
    auto model = std::make_shared<LetterModel>();
    auto engine =
        *Engine::create({.names = {"letters"}, .model = model, .tokenizer = std::make_shared<fake::Tokenizer>()},
                        {.max_num_seqs = kStreams});
    std::deque<DeafSink> sinks(kStreams);
    std::vector<std::unique_ptr<Ticket>> tickets;
    for (DeafSink& sink : sinks) {
      Request asked = fake::request("prompt " + std::to_string(tickets.size()), kTokens, sampling);
      asked.stopping.ignore_eos = true;
      asked.stopping.stop = {"never said"};
      tickets.push_back(*engine->start(std::move(asked), sink));
    }
    for (DeafSink& sink : sinks) sink.wait();
    engine.reset();
    std::vector<std::uint64_t> steps;
    const std::size_t whole = model->between.size();
    for (std::size_t i = 100; i + 50 < whole; ++i) {
      if (model->between[i].rows != static_cast<int>(kStreams)) continue;
      steps.push_back(model->between[i].allocations);
    }
    ASSERT_GT(steps.size(), 300u);
    std::ranges::sort(steps);
    EXPECT_EQ(steps[steps.size() / 2], kStreams) << "the ids of each token's Text event";
    // Histories and block tables double when they are full.
    EXPECT_EQ(steps[steps.size() * 9 / 10], kStreams);
    EXPECT_LE(steps.back(), 4u * kStreams);
  }
}

}  // namespace
}  // namespace ashlar::engine
#endif
