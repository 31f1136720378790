#include "engine/text_reader.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <condition_variable>
#include <deque>
#include <exception>
#include <mutex>
#include <numeric>
#include <thread>

#include "base/log.h"
#include "base/threads.h"
#include "engine/read_text.h"
#include "engine/reader_metrics.h"

namespace ashlar::engine {
namespace {

using Refusal = Generator::Refusal;
constexpr std::chrono::milliseconds kRetryFullQueue{1000};
constexpr int kTasksEmbed = 0, kTasksRank = 1;

std::size_t size(int n) { return static_cast<std::size_t>(n); }

// One request. The thread that works on it owns it; done_ is called once.
struct Work {
  std::variant<EmbedRequest, RerankRequest> request;
  std::variant<Embedder::Done, Reranker::Done> done;
  Clock::time_point arrived, deadline;
  std::stop_token stop;
  std::size_t texts = 0;
  std::vector<ReadText> waiting;  // the longest first: taken from the back
  std::size_t unfinished = 0;     // texts that have no result yet
  std::vector<float> results;     // [texts, outputs]
  int prompt_tokens = 0, cut = 0;

  void fail(Refusal refusal) {
    std::visit([&](auto& tell) { tell(std::unexpected(std::move(refusal))); }, done);
  }
};

template <class Request, class Done>
std::unique_ptr<Work> work_of(Request request, Done done, std::size_t texts) {
  auto work = std::make_unique<Work>();
  work->texts = texts;
  work->deadline = request.deadline;
  work->stop = request.stop;
  work->request = std::move(request);
  work->done = std::move(done);
  return work;
}

}  // namespace

struct TextReader::State {
  TextReaderParts parts;
  TextReaderOptions options;
  TextTokens text_tokens;
  ReaderMetrics metrics;

  std::mutex mutex;
  std::condition_variable_any news;
  std::deque<std::unique_ptr<Work>> incoming;  // to be tokenized; guarded by mutex
  std::deque<std::unique_ptr<Work>> ready;     // guarded by mutex; their texts are the computing thread's
  std::size_t queued = 0;                      // texts in both; guarded by mutex
  bool stopping = false;                       // guarded by mutex
  std::jthread tokenizing, computing;          // last: they use all of the above

  State(TextReaderParts its_parts, const TextReaderOptions& its_options)
      : parts(std::move(its_parts)),
        options(its_options),
        text_tokens(parts.tokenizer, parts.pair_form, context()),
        metrics(parts.names.front()) {}

  bool ranks() const { return parts.encoder->pooling() == models::Pooling::rank; }
  int context() const { return std::min(parts.encoder->shape().context, parts.encoder->max_tokens()); }

  std::optional<Refusal> check(const std::string& model, std::size_t texts, int task) const;
  void submit(std::unique_ptr<Work> work);
  void tokenize_all(std::stop_token stop);
  void compute_all(std::stop_token stop);
  Status tokenize(Work& work) const;
  std::optional<Refusal> over(const Work& work) const;
  void end(std::unique_ptr<Work> work, std::optional<Refusal> refusal);
  void step();
  void give(Work& work);

  // What a step computes: a text, and whose it is.
  struct Row {
    Work* work;
    ReadText text;
  };
  std::vector<Row> take_batch();
  std::size_t turn = 0;  // whose text comes first; computing thread
};

std::optional<Refusal> TextReader::State::check(const std::string& model, std::size_t texts, int task) const {
  if (!model.empty() && std::ranges::find(parts.names, model) == parts.names.end())
    return Refusal{{Code::not_found, fmt::format("there is no model '{}' here", model)}};
  if (task == kTasksEmbed && ranks())
    return Refusal{{Code::unsupported, fmt::format("the model '{}' ranks texts and gives no embeddings: send them to "
                                                   "/v1/rerank",
                                                   parts.names.front())}};
  if (task == kTasksRank && !ranks())
    return Refusal{{Code::unsupported, fmt::format("the model '{}' is not a reranker", parts.names.front())}};
  if (texts == 0) return Refusal{{Code::invalid, "there is no text to read"}};
  if (texts > size(options.max_num_queued_texts))
    return Refusal{{Code::too_large,
                    fmt::format("the request has {} texts; at most {} may wait", texts, options.max_num_queued_texts)}};
  return std::nullopt;
}

void TextReader::State::submit(std::unique_ptr<Work> work) {
  work->arrived = parts.clock();
  if (parts.request_timeout.count() > 0)
    work->deadline = std::min(work->deadline, work->arrived + parts.request_timeout);
  std::unique_lock lock(mutex);
  if (stopping || queued + work->texts > size(options.max_num_queued_texts)) {
    const bool full = !stopping;
    lock.unlock();
    metrics.refused.add();
    return work->fail(
        full ? Refusal{{Code::exhausted, "too many texts wait to be read: try again soon"}, kRetryFullQueue}
             : Refusal{{Code::unavailable, "the server is shutting down"}});
  }
  queued += work->texts;
  metrics.waiting.set(static_cast<double>(queued));
  incoming.push_back(std::move(work));
  lock.unlock();
  news.notify_all();
}

// Why a request's work is not worth going on with.
std::optional<Refusal> TextReader::State::over(const Work& work) const {
  if (work.stop.stop_requested()) return Refusal{{Code::cancelled, "the client left"}};
  if (parts.clock() >= work.deadline)
    return Refusal{{Code::deadline, "the texts were not read within the time that the request has"}};
  return std::nullopt;
}

// The request leaves; `refusal`: without an answer.
void TextReader::State::end(std::unique_ptr<Work> work, std::optional<Refusal> refusal) {
  {
    std::lock_guard lock(mutex);
    queued -= work->texts;
    metrics.waiting.set(static_cast<double>(queued));
  }
  try {
    if (!refusal) return give(*work);
    metrics.failed.add();
    work->fail(std::move(*refusal));
  } catch (const std::exception& e) {
    log::error("reader_answer_threw", {{"what", e.what()}});
  }
}

// --- tokenizing ---

Status TextReader::State::tokenize(Work& work) const {
  const auto take = [&](ReadText text) {
    work.prompt_tokens += static_cast<int>(text.ids.size());
    work.cut += text.cut ? 1 : 0;
    work.waiting.push_back(std::move(text));
  };
  for (std::size_t i = 0; i < work.texts && !over(work); ++i) {
    const auto* embed = std::get_if<EmbedRequest>(&work.request);
    take(embed != nullptr ? TRY(text_tokens.text(*embed, i))
                          : TRY(text_tokens.pair(std::get<RerankRequest>(work.request), i)));
  }
  std::ranges::sort(work.waiting, std::greater(),
                    [](const ReadText& text) { return std::pair(text.ids.size(), text.index); });
  work.unfinished = work.waiting.size();
  work.results.resize(work.texts * size(parts.encoder->outputs()));
  return {};
}

void TextReader::State::tokenize_all(std::stop_token stop) {
  begin_thread("ashlar-tokens");
  for (;;) {
    std::unique_ptr<Work> work;
    {
      std::unique_lock lock(mutex);
      if (!news.wait(lock, stop, [&] { return !incoming.empty(); })) return;
      work = std::move(incoming.front());
      incoming.pop_front();
    }
    std::optional<Refusal> refusal;
    try {
      if (const Status done = tokenize(*work); !done) {
        const bool too_long = done.error().code == Code::too_large;
        refusal = Refusal{.error = {Code::invalid, done.error().message}, .over_context = too_long};
      }
    } catch (const std::exception& e) {
      log::error("reader_tokenizing_threw", {{"what", e.what()}});
      refusal = Refusal{{Code::internal, "a text could not be tokenized"}};
    }
    if (!refusal) refusal = over(*work);
    if (refusal) {
      end(std::move(work), std::move(refusal));
      continue;
    }
    std::lock_guard lock(mutex);
    ready.push_back(std::move(work));
    news.notify_all();
  }
}

// --- computing ---

// Requests give a text each in turn, its shortest first, as long as there is room.
std::vector<TextReader::State::Row> TextReader::State::take_batch() {
  std::vector<Row> batch;
  std::size_t tokens = 0;
  const std::size_t most = size(std::clamp(options.embed_batch_tokens, 1, parts.encoder->max_tokens()));
  std::lock_guard lock(mutex);
  if (ready.empty()) return batch;
  std::size_t without = 0;
  for (std::size_t at = turn++ % ready.size(); without < ready.size(); at = (at + 1) % ready.size()) {
    std::vector<ReadText>& waiting = ready[at]->waiting;
    const std::size_t next = waiting.empty() ? 0 : waiting.back().ids.size();
    if (waiting.empty() || (!batch.empty() && tokens + next > most)) {
      ++without;
      continue;
    }
    without = 0;
    tokens += next;
    batch.push_back({ready[at].get(), std::move(waiting.back())});
    waiting.pop_back();
    if (batch.size() == size(parts.encoder->max_texts())) break;
  }
  return batch;
}

void TextReader::State::step() {
  // Who left or ran out of time waits no more.
  std::deque<std::unique_ptr<Work>> gone;
  {
    std::lock_guard lock(mutex);
    for (auto& work : ready)
      if (over(*work)) gone.push_back(std::move(work));
    std::erase(ready, nullptr);
  }
  for (auto& work : gone) {
    auto refusal = over(*work);
    end(std::move(work), std::move(refusal));
  }
  std::vector<Row> batch = take_batch();
  if (batch.empty()) return;
  std::vector<std::int32_t> ids;
  std::vector<std::uint8_t> types;
  std::vector<int> lengths;
  for (const Row& row : batch) {
    ids.insert(ids.end(), row.text.ids.begin(), row.text.ids.end());
    types.insert(types.end(), row.text.types.begin(), row.text.types.end());
    types.resize(ids.size(), 0);
    lengths.push_back(static_cast<int>(row.text.ids.size()));
  }
  const std::size_t outputs = size(parts.encoder->outputs());
  std::vector<float> out(batch.size() * outputs);
  std::optional<Refusal> broken;
  const auto start = Clock::now();
  try {
    const auto encode = [&] { parts.encoder->encode({ids, types, lengths, out}); };
    if (parts.turns != nullptr) {
      const std::lock_guard turn_at_the_machine(*parts.turns);
      encode();
    } else {
      encode();
    }
  } catch (const std::exception& e) {
    log::error("reader_step_threw", {{"what", e.what()}});
    broken = Refusal{{Code::internal, "the texts could not be read"}};
  }
  metrics.step_done(Clock::now() - start, ids.size());
  for (std::size_t i = 0; i < batch.size(); ++i) {
    std::copy_n(out.begin() + static_cast<std::ptrdiff_t>(i * outputs), outputs,
                batch[i].work->results.begin() + static_cast<std::ptrdiff_t>(batch[i].text.index * outputs));
    --batch[i].work->unfinished;
  }
  std::deque<std::unique_ptr<Work>> finished;
  {
    std::lock_guard lock(mutex);
    for (auto& work : ready) {
      const bool hit = broken && std::ranges::find(batch, work.get(), &Row::work) != batch.end();
      if (work->unfinished == 0 || hit) finished.push_back(std::move(work));
    }
    std::erase(ready, nullptr);
  }
  for (auto& work : finished) {
    const bool numbers = std::ranges::all_of(work->results, [](float value) { return std::isfinite(value); });
    std::optional<Refusal> refusal = broken;
    if (!refusal && !numbers) refusal = Refusal{{Code::internal, "the model gave values that are not finite"}};
    end(std::move(work), std::move(refusal));
  }
}

// The answer, on the computing thread.
void TextReader::State::give(Work& work) {
  metrics.request_done(parts.clock() - work.arrived, work.texts, work.prompt_tokens);
  const std::size_t outputs = size(parts.encoder->outputs());
  if (auto* embed = std::get_if<EmbedRequest>(&work.request)) {
    const std::size_t wanted = embed->dimensions == 0 ? outputs : size(embed->dimensions);
    Embeddings answer{
        .dimensions = static_cast<int>(wanted), .prompt_tokens = work.prompt_tokens, .asked = work.arrived};
    answer.values.resize(work.texts * wanted);
    for (std::size_t i = 0; i < work.texts; ++i) {
      const auto vector = std::span(answer.values).subspan(i * wanted, wanted);
      std::copy_n(work.results.begin() + static_cast<std::ptrdiff_t>(i * outputs), wanted, vector.begin());
      normalize(vector);
    }
    return std::get<Embedder::Done>(work.done)(std::move(answer));
  }
  const auto& rerank = std::get<RerankRequest>(work.request);
  Ranking answer{.scores = {}, .prompt_tokens = work.prompt_tokens, .cut = work.cut, .asked = work.arrived};
  for (std::size_t i = 0; i < work.texts; ++i) {
    const auto scores = std::span(work.results).subspan(i * outputs, outputs);
    answer.scores.push_back(rerank.raw_scores ? scores[size(parts.relevant)] : relevance(scores, parts.relevant));
  }
  std::get<Reranker::Done>(work.done)(std::move(answer));
}

void TextReader::State::compute_all(std::stop_token stop) {
  begin_thread("ashlar-reader");
  for (;;) {
    {
      std::unique_lock lock(mutex);
      if (!news.wait(lock, stop, [&] { return !ready.empty(); }) || stop.stop_requested()) return;
    }
    step();
  }
}

// --- the face ---

TextReader::TextReader(TextReaderParts parts, const TextReaderOptions& options)
    : state_(std::make_unique<State>(std::move(parts), options)) {
  State& state = *state_;
  CHECK(!state.parts.names.empty() && state.parts.encoder != nullptr && state.parts.tokenizer != nullptr,
        "a reader has a named encoder and its tokenizer");
  CHECK(!state.ranks() || state.parts.pair_form.has_value(), "a reranker knows how pairs are written");
  state.tokenizing = std::jthread([&state](std::stop_token stop) { state.tokenize_all(stop); });
  state.computing = std::jthread([&state](std::stop_token stop) { state.compute_all(stop); });
}

TextReader::~TextReader() {
  State& state = *state_;
  {
    std::lock_guard lock(state.mutex);
    state.stopping = true;
  }
  for (std::jthread* thread : {&state.tokenizing, &state.computing}) {
    thread->request_stop();
    thread->join();
  }
  for (auto* queue : {&state.incoming, &state.ready})
    for (auto& work : std::exchange(*queue, {}))
      state.end(std::move(work), Refusal{{Code::unavailable, "the server is shutting down"}});
}

void TextReader::embed(EmbedRequest request, Embedder::Done done) {
  auto refusal = state_->check(request.model, request.inputs.size(), kTasksEmbed);
  if (!refusal && (request.dimensions < 0 || request.dimensions > dimensions()))
    refusal = Refusal{{Code::invalid, fmt::format("dimensions is {}, but the model's vectors have {}",
                                                  request.dimensions, dimensions())}};
  if (refusal) return done(std::unexpected(std::move(*refusal)));
  const std::size_t texts = request.inputs.size();
  state_->submit(work_of(std::move(request), std::move(done), texts));
}

void TextReader::rerank(RerankRequest request, Reranker::Done done) {
  if (auto refusal = state_->check(request.model, request.documents.size(), kTasksRank))
    return done(std::unexpected(std::move(*refusal)));
  const std::size_t texts = request.documents.size();
  state_->submit(work_of(std::move(request), std::move(done), texts));
}

const std::vector<std::string>& TextReader::names() const { return state_->parts.names; }
bool TextReader::ranks() const { return state_->ranks(); }
int TextReader::context() const { return state_->context(); }
int TextReader::dimensions() const { return state_->ranks() ? 0 : state_->parts.encoder->outputs(); }

}  // namespace ashlar::engine
