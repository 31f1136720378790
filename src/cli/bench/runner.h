// Runs the tests of `ashlar bench`.
#pragma once

#include <cstdint>
#include <random>

#include "base/result.h"
#include "cli/bench/test.h"
#include "cli/direct.h"
#include "cli/terminal.h"

namespace ashlar::cli {

struct RunnerOptions {
  models::KvType kv = models::KvType::f16;
  int repeat = 5;  // undisturbed runs wanted
  int chunk = 512;
  bool profile = false;
};

// One thread.
class Runner {
 public:
  Runner(models::Model& model, const RunnerOptions& options) : model_(model), options_(options) {}

  // Runs the test until enough runs were undisturbed, but at most three times
  // as often. exhausted: no memory for the keys and values.
  Result<Outcome> run(const Test& test);

 private:
  std::vector<std::int32_t> random_tokens(int count);
  void fill_depth(Direct& direct, const Test& test, Progress& progress);
  Times time_once(Direct& direct, const Test& test, const std::string& label);
  void prefill(Direct& direct, const Test& test, Progress& progress);
  void decode(Direct& direct, const Test& test, Progress& progress);
  void profile(Direct& direct, Outcome& outcome);

  models::Model& model_;
  RunnerOptions options_;
  std::mt19937 random_{42};
};

}  // namespace ashlar::cli
