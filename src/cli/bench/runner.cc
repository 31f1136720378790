#include "cli/bench/runner.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>

#include "cli/bench/foreign_load.h"

namespace ashlar::cli {
namespace {

double seconds_of(auto&& work) {
  const auto start = std::chrono::steady_clock::now();
  work();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

}  // namespace

std::string Test::name() const {
  std::string name;
  const auto add = [&](std::string_view kind, int count) {
    if (count > 0) name += fmt::format("{}{}{}", name.empty() ? "" : "+", kind, count);
  };
  add("shared", shared);
  add("pp", prompt);
  add("tg", generate);
  return name;
}

Figures figures_of(std::vector<double> values) {
  CHECK(!values.empty(), "a test was run");
  std::ranges::sort(values);
  return {values[values.size() / 2], values.front(), values.back()};
}

std::vector<std::int32_t> Runner::random_tokens(int count) {
  std::uniform_int_distribution<std::int32_t> pick(0, model_.shape().vocabulary - 1);
  std::vector<std::int32_t> tokens(static_cast<std::size_t>(count));
  for (auto& token : tokens) token = pick(random_);
  return tokens;
}

// What stands before the test in every sequence: computed for one, copied for the others.
void Runner::fill_depth(Direct& direct, const Test& test, Progress& progress) {
  const auto tokens = random_tokens(test.depth);
  for (int at = 0; at < test.depth;) {
    const int rows = std::min(options_.chunk, test.depth - at);
    direct.feed(0, std::span(tokens).subspan(static_cast<std::size_t>(at), static_cast<std::size_t>(rows)), 0, rows,
                [](int, std::span<const float>) {});
    progress.at(at += rows);
  }
  for (int s = 1; s < test.batch; ++s) direct.copy(0, s);
}

// As the engine would: passes of at most `chunk` rows, which short prompts share.
void Runner::prefill(Direct& direct, const Test& test, Progress& progress) {
  const int sequences = test.shared > 0 ? 1 : test.batch, each = test.prefilled() / sequences;
  std::vector<std::vector<std::int32_t>> prompts;
  for (int s = 0; s < sequences; ++s) prompts.push_back(random_tokens(each));
  std::vector<int> done(static_cast<std::size_t>(sequences));
  for (int s = 0, total = 0; s < sequences; progress.at(total)) {
    std::vector<std::span<const std::int32_t>> chunks(static_cast<std::size_t>(sequences));
    int left = options_.chunk;
    const int first = s;
    while (s < sequences && left > 0) {
      const auto i = static_cast<std::size_t>(s);
      const int rows = std::min(left, each - done[i]);
      chunks[i] = std::span(prompts[i]).subspan(static_cast<std::size_t>(done[i]), static_cast<std::size_t>(rows));
      left -= rows;
      done[i] += rows;
      if (done[i] == each) ++s;
    }
    total += options_.chunk - left;
    direct.pass_together(chunks, /*logits=*/s > first);
  }
  if (test.shared > 0) direct.share(0, test.batch);
}

void Runner::decode(Direct& direct, const Test& test, Progress& progress) {
  for (int step = 0; step < test.generate; ++step) {
    direct.step(random_tokens(test.batch));
    progress.at(test.prefilled() + (step + 1) * test.batch);
  }
}

Times Runner::time_once(Direct& direct, const Test& test, const std::string& label) {
  for (int s = 0; s < test.batch; ++s) direct.rewind(s, test.depth);
  Progress progress(label, test.prefilled() + test.decoded());
  const ForeignLoad load;
  Times times;
  if (test.prefilled() > 0) times.prefill = seconds_of([&] { prefill(direct, test, progress); });
  if (test.generate > 0) times.decode = seconds_of([&] { decode(direct, test, progress); });
  times.foreign = load.share();
  return times;
}

void Runner::profile(Direct& direct, Outcome& outcome) {
  const Test& test = outcome.test;
  for (int s = 0; s < test.batch; ++s) direct.rewind(s, test.depth);
  Progress progress(test.name() + " profiled", test.prefilled() + test.decoded());
  const auto watched = [&](auto&& phase) {
    Profiled profiled{.profile = models::Profile(model_.shape().layers)};
    model_.watch(&profiled.profile);
    profiled.seconds = seconds_of([&] { (this->*phase)(direct, test, progress); });
    model_.watch(nullptr);
    profiled.passes = static_cast<int>(profiled.profile.total(models::Operation::embed).calls);
    return profiled;
  };
  if (test.prefilled() > 0) outcome.prefill = watched(&Runner::prefill);
  if (test.generate > 0) outcome.decode = watched(&Runner::decode);
}

Result<Outcome> Runner::run(const Test& test) {
  auto direct = TRY(Direct::create(model_, test.batch, test.tokens_each(), options_.kv));
  const std::string label = fmt::format("{} x {}", test.name(), test.batch);
  if (test.depth > 0) {
    Progress progress(fmt::format("{}: filling {} tokens", label, test.depth), test.depth);
    fill_depth(direct, test, progress);
  }
  constexpr int kWarmUp = 4096;  // a longer test is warm enough soon
  if (test.prefilled() + test.decoded() <= kWarmUp) time_once(direct, test, label + " warming up");
  Outcome outcome{.test = test};
  std::vector<Times> runs;
  int undisturbed = 0;
  for (int run = 0; undisturbed < options_.repeat && run < 3 * options_.repeat; ++run) {
    runs.push_back(time_once(direct, test, fmt::format("{} run {}", label, run + 1)));
    runs.back().foreign > kDisturbed ? ++outcome.disturbed : ++undisturbed;
  }
  outcome.unsure = 2 * undisturbed < options_.repeat;
  for (const Times& times : runs)
    if (outcome.unsure || times.foreign <= kDisturbed) outcome.runs.push_back(times);
  if (options_.profile) profile(direct, outcome);
  return outcome;
}

}  // namespace ashlar::cli
