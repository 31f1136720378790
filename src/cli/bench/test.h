// One test of `ashlar bench`, and what came of it.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "models/profile.h"

namespace ashlar::cli {

// `batch` sequences that hold `depth` tokens each get `prompt` more, then decode
// `generate` together. Or they share one prompt of `shared` tokens.
struct Test {
  int batch = 1;
  int depth = 0;
  int prompt = 0;
  int generate = 0;
  int shared = 0;

  std::string name() const;  // "pp512", "tg128", "pp128+tg32", "shared512+tg32"
  int tokens_each() const { return depth + shared + prompt + generate; }
  int prefilled() const { return shared > 0 ? shared : batch * prompt; }
  int decoded() const { return batch * generate; }
};

// Of one run.
struct Times {
  double prefill = 0, decode = 0;  // seconds
  double foreign = 0;              // others' share of the cores in that time
};

struct Figures {
  double median = 0, min = 0, max = 0;
};

Figures figures_of(std::vector<double> values);

// One more run of a phase, watched.
struct Profiled {
  models::Profile profile;
  double seconds = 0;
  int passes = 0;  // through the model
};

struct Outcome {
  Test test;
  std::vector<Times> runs;  // those that count: the undisturbed ones, or all where too few were
  int disturbed = 0;        // runs that others disturbed
  bool unsure = false;      // they are among `runs`
  std::optional<Profiled> prefill, decode;
};

}  // namespace ashlar::cli
