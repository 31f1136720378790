// What a small model of the same vocabulary would say next, greedily: one pass
// brings it up to date with each answer, further ones draft a token each, for all
// answers together.
//
// Its keys and values live in a store and a prefix cache of its own. Rows of
// drafted tokens that the large model refused are written over, as they are there.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "engine/kv_cache.h"
#include "models/model.h"

namespace ashlar::engine {

// Engine thread only; what several engines share of the model is guarded by their turns.
class ModelDrafter {
 public:
  // Tokens of prompts and accepted tokens that one call computes at most, so that
  // a long prompt does not hold up the step. Who is behind gets no draft yet.
  static constexpr int kCatchUp = 256;

  // `usable`: the ids that both models have, the first ones.
  ModelDrafter(std::shared_ptr<models::Model> model, std::unique_ptr<models::KvStore> store, int usable);

  // What is kept of one answer. Made by track(), and to die before the drafter.
  class Trail {
   public:
    ~Trail() { cache_.release(table_); }
    Trail(const Trail&) = delete;
    Trail& operator=(const Trail&) = delete;

   private:
    friend class ModelDrafter;
    explicit Trail(KvCache& cache) : cache_(cache) {}
    void settle(std::span<const std::int32_t> tokens);

    KvCache& cache_;
    BlockTable table_;
    bool open_ = false;
    int computed_ = 0;                   // tokens of the answer that are in the store,
    std::vector<std::int32_t> guesses_;  // and drafted ones after them
  };
  std::unique_ptr<Trail> track() { return std::unique_ptr<Trail>(new Trail(cache_)); }

  struct Wish {
    Trail* trail = nullptr;
    std::span<const std::int32_t> tokens;        // the sequence so far
    std::shared_ptr<const std::string> salt;     // of the prefix cache
    int most = 0;                                // tokens to draft, at least 1
    std::vector<std::int32_t>* draft = nullptr;  // out: appended
  };
  void propose(std::span<const Wish> wishes);

  double used_share() const { return cache_.used_share(); }

 private:
  bool catch_up(const Wish& wish, int& budget);
  void add(const Wish& wish, int first, std::span<const std::int32_t> tokens, bool wants_logits);
  void compute();
  std::int32_t choose(std::size_t row) const;

  std::shared_ptr<models::Model> model_;
  std::unique_ptr<models::KvStore> store_;
  KvCache cache_;
  int vocabulary_, usable_;

  // The pass at hand.
  std::vector<std::int32_t> tokens_;
  std::vector<models::Step::Sequence> sequences_;
  std::vector<int> logit_rows_;
  std::vector<float> logits_;
  std::vector<const Wish*> active_;  // whose next token the logits give
};

}  // namespace ashlar::engine
