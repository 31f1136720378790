#include "engine/speculation.h"

#include <algorithm>
#include <exception>
#include <mutex>

#include "base/log.h"
#include "engine/job.h"

namespace ashlar::engine {
namespace {

// A step of up to kCheapRows rows takes hardly longer than one of a single row: the
// weights stream from memory once for all. Each further row takes its share.
constexpr int kCheapRows = 8;
// So a guess pays if it is right this often, all before it included. Those of a
// model have cost its passes, too.
constexpr double kWorthCheap = 0.1, kWorth = 0.35;
constexpr double kCostOfModel = 0.2;  // so much more often must a model be right that its passes pay
constexpr double kNews = 0.15;        // weight of one guess in the rate
constexpr double kForgets = 0.03;     // how fast a rate that allows no guess returns to where it began
constexpr int kLongMatch = 6, kShortMatch = 2;
constexpr std::size_t kLeadIn = 4;  // tokens of the prompt's end put before a prediction

Source source_of(const NgramIndex::Match& match) {
  if (match.length >= kLongMatch) return Source::long_match;
  return match.length <= kShortMatch ? Source::short_match : Source::match;
}

// A prediction begins where the answer does: after the prompt's last tokens.
std::unique_ptr<NgramIndex> make_index(const Choice& choice) {
  std::vector<std::int32_t> before;
  if (const auto& prediction = choice.guesses.prediction; prediction != nullptr) {
    const auto end = choice.tokens.begin() + choice.prompt;
    before.assign(end - static_cast<std::ptrdiff_t>(std::min(kLeadIn, static_cast<std::size_t>(choice.prompt))), end);
    before.insert(before.end(), prediction->begin(), prediction->end());
  }
  return std::make_unique<NgramIndex>(before);
}

// How many tokens may be guessed: the answer's last one need not be.
int room(const Choice& choice) {
  if (choice.remaining() != 1 || !choice.job.first_token) return 0;
  return std::min(choice.guesses.most, choice.job.max_tokens - choice.answer.tokens() - 1);
}

}  // namespace

int Confidence::depth(Source source, int most, int cheap) {
  double& rate = rates_[static_cast<std::size_t>(source)];
  if (source == Source::model) cheap = 0;
  int depth = 0;
  for (double right = rate; depth < most && right >= (depth < cheap ? kWorthCheap : kWorth); right *= rate) ++depth;
  if (depth == 0) rate += kForgets * (Confidence().rate(source) - rate);
  return depth;
}

void Confidence::learn(Source source, int drafted, int accepted) {
  double& rate = rates_[static_cast<std::size_t>(source)];
  for (int i = 0; i < std::min(drafted, accepted + 1); ++i) rate += kNews * ((i < accepted ? 1 : 0) - rate);
}

void Speculator::propose(std::span<Sequence* const> running) {
  int decodes = 0;
  for (Sequence* sequence : running) {
    sequence->draft.clear();
    decodes += sequence->remaining() == 1 ? 1 : 0;
  }
  if (decodes > max_batch_) return;
  wishes_.clear();
  const int cheap = decodes > 0 ? kCheapRows / decodes - 1 : 0;
  for (Sequence* sequence : running) {
    auto& choice = static_cast<Choice&>(*sequence);
    if (const int most = room(choice); most > 0) guess(choice, most, cheap);
  }
  if (!wishes_.empty()) ask_model();
}

void Speculator::guess(Choice& choice, int most, int cheap) {
  Guesses& guesses = choice.guesses;
  Confidence& confidence = guesses.confidence;
  const bool model =
      drafter_ != nullptr && !broken_ && (guesses.by == Speculation::draft || guesses.by == Speculation::automatic);
  if (guesses.by == Speculation::ngram || guesses.by == Speculation::automatic) {
    if (guesses.ngrams == nullptr) guesses.ngrams = make_index(choice);
    guesses.ngrams->follow(choice.tokens);
    const NgramIndex::Match match = guesses.ngrams->find();
    guesses.source = source_of(match);
    const bool best = !model || confidence.rate(guesses.source) + kCostOfModel >= confidence.rate(Source::model);
    if (match.length > 0 && best) {
      guesses.ngrams->read(match, confidence.depth(guesses.source, most, cheap), choice.draft);
      return;
    }
  }
  if (!model) return;
  most = confidence.depth(Source::model, most, cheap);
  if (most == 0) return;
  guesses.source = Source::model;
  if (guesses.trail == nullptr) guesses.trail = drafter_->track();
  wishes_.push_back({.trail = guesses.trail.get(),
                     .tokens = choice.tokens,
                     .salt = choice.salt,
                     .most = most,
                     .draft = &choice.draft});
}

// A draft model that fails costs speed, not answers. It is not asked again.
void Speculator::ask_model() {
  std::unique_lock<ComputeLock> turn;
  if (turns_ != nullptr) turn = std::unique_lock(*turns_);
  try {
    drafter_->propose(wishes_);
  } catch (const std::exception& problem) {
    log::error("draft_model_failed", {{"error", problem.what()}});
    broken_ = true;
    for (const ModelDrafter::Wish& wish : wishes_) wish.draft->clear();
  }
}

void Speculator::learn(Choice& choice, int drafted, int accepted) {
  choice.guesses.confidence.learn(choice.guesses.source, drafted, accepted);
  choice.guesses.accepted += accepted;
  choice.guesses.rejected += drafted - accepted;
}

void Speculator::leave(Choice& choice) {
  choice.guesses.trail.reset();
  choice.guesses.ngrams.reset();
}

}  // namespace ashlar::engine
