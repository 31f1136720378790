// What a step costs on this machine with this model, learned from the steps that
// were: fixed + so much for each prompt row, each decode, and each key that they
// attend to. A Kalman filter over these five numbers (a recursive least squares
// that forgets): what a step does not use is not forgotten, one slow step counts
// little (another process had the core), several in a row count whole (the
// machine has changed).
#pragma once

#include <array>

namespace ashlar::engine {

// What a step computes.
struct StepLoad {
  int prompt_rows = 0, decodes = 0;
  double prompt_keys = 0, decode_keys = 0;  // positions attended to, summed over their rows
};

// Not locked: its owner's thread alone.
class StepCost {
 public:
  void learn(const StepLoad& load, double seconds);

  // 0: nothing was measured yet.
  double seconds(const StepLoad& load) const;

  // How many prompt rows, of a prompt that stands at position `first`, may join
  // `others` so that the step likely ends within `seconds`. 0: none, or nothing
  // is known yet. Never many more than steps had lately.
  int rows_within(const StepLoad& others, int first, double seconds) const;

 private:
  static constexpr std::size_t kTerms = 5;
  using Terms = std::array<double, kTerms>;
  static Terms terms(const StepLoad& load);
  void widen(const Terms& x);
  void forget(const Terms& x);

  Terms cost_{};                       // seconds for each term
  std::array<Terms, kTerms> doubt_{};  // its covariance
  double level_ = 0;                   // a usual step's seconds; 0: none yet
  double spread_ = 0;                  // by what share steps miss what was expected
  double reach_ = 0;                   // prompt rows that steps had lately
  int slow_ = 0;                       // steps in a row that took far too long
};

}  // namespace ashlar::engine
