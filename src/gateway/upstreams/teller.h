// What a reader finds in an upstream's answer, made into the events of a Sink: in their order, within the choices that
// were asked for, with what upstreams leave out made good, and never more than was asked for.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/json.h"
#include "engine/generator.h"
#include "gateway/upstreams/failure.h"

namespace ashlar::gateway {

// About how many tokens a text has, where nobody counts: four letters of ASCII each, one for any other character.
int estimate_tokens(std::string_view text);
// The same of a prompt: of a chat, what its messages and tools say.
int estimate_tokens(const engine::Prompt& prompt);

// One answer; one thread at a time.
class Teller {
 public:
  Teller(std::string upstream, const engine::Request& request);

  // What comes from here on stands in another event of the upstream's.
  void next() { fresh_ = false; }
  // A choice out of range is the upstream's fault and told as such; what comes after a choice's end is dropped.
  void text(engine::Text text);
  void reasoning(int choice, std::string_view text);
  // Upstreams leave the index (below 0) or the id of later pieces out, or give several calls one index: a piece goes on
  // with the call of its index unless it names another. The first of each needs a name; without an id it gets one.
  // `custom`: of a custom tool, whose input the arguments are.
  void tool_call(int choice, int index, std::string_view id, std::string_view name, std::string_view arguments,
                 bool custom = false);
  // Not only the message's come behind a choice's end; those before the answer has begun are kept until it does.
  void members(int choice, Json object, engine::Members::Of of = engine::Members::Of::message);
  void end(engine::ChoiceEnd end);

  // Counts as an upstream gave them, in OpenAI's form (prompt_tokens, completion_tokens and their details) or already
  // read; what is no count is left to our estimate. The last word stands.
  void usage(const Json& openai);
  void counted(std::optional<int> prompt, std::optional<int> completion, std::optional<int> cached = {},
               std::optional<int> reasoning = {}, std::optional<int> written = {}, std::optional<int> hour = {});

  // The upstream said that the answer is whole. Choices that had no end get one: `stop`, or `tool_calls`.
  void done();
  // The upstream closed: whole only if every choice has ended.
  void closed();
  void fail(Failure failure);

  bool begun() const { return begun_; }                      // a token, or an end, has come
  bool over() const { return over_; }                        // Finished is among the events told
  const Failure* failure() const { return failure_.get(); }  // null: none
  // The events since the last call.
  std::vector<engine::Event> take() { return std::exchange(events_, {}); }
  const std::string& upstream() const { return upstream_; }
  bool any_choice_open() const;
  bool has_calls(int choice) const;

 private:
  struct Choice {
    std::uint64_t quarters = 0;  // of tokens, estimated
    bool ended = false;
    struct Call {
      int said;  // the index that the upstream gives it
      std::string id;
      bool custom;
    };
    std::vector<Call> calls;
  };
  // Null: told as a fault, or ended. Makes Started come first.
  Choice* open(int choice);
  void begin();
  void count(Choice& choice, int index, std::uint64_t quarters);
  bool goes_on(const engine::Text& text);
  int so_far();
  void finish();

  const std::string upstream_;
  const int most_tokens_;  // of one choice; below 0: no limit
  const int prompt_estimate_;
  const bool in_pieces_;
  const engine::Clock::time_point made_ = engine::Clock::now();  // when it was asked
  std::vector<Choice> choices_;
  std::vector<engine::Event> events_;
  std::vector<engine::Members> early_;  // what came before the answer began
  std::optional<int> prompt_, completion_, cached_, reasoning_, written_, hour_;
  int accepted_ = 0, rejected_ = 0;
  std::uint64_t reasoning_quarters_ = 0;
  int told_ = 0;        // of `completion_`, with a piece
  bool fresh_ = false;  // `completion_` came in the event that is read
  bool begun_ = false, over_ = false, capped_ = false;
  std::unique_ptr<const Failure> failure_;  // apart: few have one
};

// A count: a whole number from 0 to 2^31 - 1.
std::optional<int> count_of(const Json& object, std::string_view name);

// The prompt's tokens that a cache was written with, of a usage in OpenAI's form: OpenRouter's name for them, LiteLLM's
// and DashScope's, among the prompt's details, or Anthropic's beside them. Nothing: it says none.
std::optional<int> written_of(const Json& openai);
// Those of them that it keeps for an hour: LiteLLM's name for them, among the prompt's details, or Anthropic's.
std::optional<int> hour_of(const Json& usage);

}  // namespace ashlar::gateway
