#include "engine/warm_up.h"

#include <fmt/format.h>

#include <algorithm>
#include <future>
#include <memory>
#include <utility>

namespace ashlar::engine {
namespace {

using std::chrono::milliseconds;

class WarmSink final : public Sink {
 public:
  void on(Event event) override {
    if (const auto* failed = std::get_if<Failed>(&event)) end.set_value(std::unexpected(failed->error));
    if (std::holds_alternative<Finished>(event)) end.set_value({});
  }
  std::promise<Status> end;
};

Status wait(std::future<Status> end, const std::string& model, milliseconds most) {
  if (end.wait_for(most) == std::future_status::ready) return end.get();
  return Error{Code::deadline,
               fmt::format("the model '{}' gave no answer to a short request within {} ms", model, most.count())};
}

Status write(Generator& generator, const std::string& model, milliseconds most) {
  WarmSink sink;
  auto end = sink.end.get_future();
  Request request{.id = "warm-up", .model = model, .prompt = {.input = std::string("Hello")}};
  request.sampling.temperature = 0;
  request.stopping.max_tokens = 2;
  auto ticket = generator.start(std::move(request), sink);
  if (!ticket) return std::unexpected(ticket.error().error);
  Status done = wait(std::move(end), model, most);
  ticket->reset();  // before its sink
  return done;
}

// What embeds or ranks tells a callback, which may come when nobody waits any more.
template <class Answer>
auto telling(const std::shared_ptr<std::promise<Status>>& end) {
  return [end](std::expected<Answer, Generator::Refusal> answer) {
    end->set_value(answer ? Status() : std::unexpected(answer.error().error));
  };
}

}  // namespace

Status warm_up(const Resident& resident, const std::string& model, milliseconds most) {
  const auto cards = resident.generator->models();
  const auto card = std::ranges::find(cards, model, &ModelCard::id);
  if (card == cards.end() || card->generates) return write(*resident.generator, model, most);
  const auto end = std::make_shared<std::promise<Status>>();
  auto ended = end->get_future();
  const Clock::time_point deadline = Clock::now() + most;
  if (card->ranks && resident.reranker != nullptr)
    resident.reranker->rerank({.model = model, .query = "Hello", .documents = {"Good day"}, .deadline = deadline},
                              telling<Ranking>(end));
  else if (resident.embedder != nullptr)
    resident.embedder->embed({.model = model, .inputs = {std::string("Hello")}, .deadline = deadline},
                             telling<Embeddings>(end));
  else
    return {};
  return wait(std::move(ended), model, most);
}

}  // namespace ashlar::engine
