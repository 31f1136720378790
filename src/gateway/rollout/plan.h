// What a route says of a version on trial: how its share grows, what it must not do
// worse than the others, and what is only tried in the shadow.
#pragma once

#include <chrono>
#include <optional>
#include <string>
#include <vector>

namespace ashlar::gateway {

// Of the answers of the version on trial against those of the stable ones, at the same time.
struct LatencyGate {
  std::string name;          // "ttft_p95"
  bool first_token = false;  // the time to the first token; else the mean time between an answer's tokens
  double quantile = 0.95;
  double ratio = 1.5;  // at most so many times the stable one's
  bool operator==(const LatencyGate&) const = default;
};

struct Gates {
  std::optional<double> error_rate = 0.01;  // above the stable one's, at most
  std::vector<LatencyGate> latencies = {{.name = "ttft_p95", .first_token = true}, {.name = "itl_p95"}};
  std::optional<double> score;  // the mean of what judges say, 0 to 1: below the stable one's, at most
  bool operator==(const Gates&) const = default;
};

// A model that is asked how good answers are.
struct JudgePlan {
  std::string model;        // a served one
  std::string prompt;       // with {question} and {answer}; "": one of ours
  double share = 0.1;       // of the answers of the version on trial; of the stable one's about as many
  int concurrency = 2;      // at once; more wait, and too many that wait are dropped
  int most_per_hour = 600;  // questions
  int max_tokens = 256;     // of what it says
  std::chrono::milliseconds timeout{60'000};
  std::vector<std::string> data_classes;  // marked data that it may see
  bool operator==(const JudgePlan&) const = default;
};

struct RolloutPlan {
  std::string to;       // the deployment on trial, by its name
  std::string version;  // tells a new attempt from one that was rolled back; "": the model's name does
  std::vector<double> steps = {0.01, 0.05, 0.25, 0.5, 1};  // shares of the requests, rising
  std::chrono::milliseconds hold{300'000};                 // at each step, at least
  int minimum_requests = 50;                               // of it, at each step
  int minimum_scores = 20;                                 // of each side, where there is a gate for scores
  bool sticky = true;                                      // a session, user or key stays on its side
  bool promote = true;                                     // after the last step; else it waits to be told
  bool automatic = true;                                   // begins by itself; else it waits to be told
  Gates gates;
  std::optional<JudgePlan> judge;  // of answers; else scores come from outside alone
  bool operator==(const RolloutPlan&) const = default;
};

struct ShadowPlan {
  std::string to;           // a served model
  double share = 1;         // of the requests
  bool compare = true;      // the answers; else its speed and failures alone
  bool keep_texts = false;  // of differing answers, in the report
  int examples = 20;        // of these, the last so many
  int concurrency = 4;      // at once; what comes then is not copied
  std::chrono::milliseconds timeout{120'000};
  std::vector<std::string> data_classes;  // marked data that it may see
  bool operator==(const ShadowPlan&) const = default;
};

}  // namespace ashlar::gateway
