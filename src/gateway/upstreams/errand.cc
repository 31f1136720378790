#include "gateway/upstreams/errand.h"

#include <fmt/format.h>

#include <mutex>
#include <optional>
#include <stop_token>
#include <utility>

namespace ashlar::gateway {
namespace {

using std::chrono::milliseconds;
using Refusal = engine::Generator::Refusal;

// Holds itself until it is over: nobody else waits for it.
class Errand : public std::enable_shared_from_this<Errand> {
 public:
  Errand(UpstreamState& upstream, engine::EmbedRequest request, net::ClientRequest order, engine::Embedder::Done done)
      : up_(upstream), request_(std::move(request)), order_(std::move(order)), done_(std::move(done)) {}

  void begin() {
    {
      const std::lock_guard lock(mutex_);
      self_ = shared_from_this();
      up_.budget.began();
      up_.metrics.requests.add();
      launch();
    }
    stop_.emplace(request_.stop, [weak = weak_from_this()] {
      if (const auto self = weak.lock())
        self->finish(std::unexpected(Refusal{.error = {Code::cancelled, "the client has left"}}));
    });
  }

 private:
  void launch() {
    ++made_;
    status_ = 0;
    headers_.clear();
    body_.clear();
    net::ClientRequest out = up_.outgoing(order_, up_.options.first_token_timeout);
    out.timeout = up_.options.first_token_timeout;
    const std::weak_ptr<Errand> weak = weak_from_this();
    call_ = up_.client().send(std::move(out), {.on_connect = {},
                                               .on_head =
                                                   [weak](int status, const net::Headers& headers) {
                                                     if (const auto self = weak.lock()) self->head(status, headers);
                                                   },
                                               .on_data =
                                                   [weak](std::string_view piece) {
                                                     if (const auto self = weak.lock()) self->body_.append(piece);
                                                   },
                                               .on_done =
                                                   [weak](Status done) {
                                                     if (const auto self = weak.lock()) self->done(std::move(done));
                                                   }});
  }

  void head(int status, const net::Headers& headers) {
    status_ = status;
    headers_ = headers;
  }

  void done(Status status) {
    if (!status) return fail(failure_of_call(up_.options.name, status.error(), status_ != 0));
    if (status_ != 200) return fail(failure_of_answer(up_.options.name, status_, headers_, body_));
    auto vectors = up_.wire().read_vectors(body_, request_.inputs.size());
    if (!vectors) return fail(nonsense(up_.options.name, "what is no list of vectors"));
    if (vectors->prompt_tokens == 0)
      for (const auto& input : request_.inputs)
        vectors->prompt_tokens += std::visit([](const auto& each) { return estimate_tokens({.input = each}); }, input);
    vectors->asked = asked_;
    finish(std::move(*vectors));
  }

  void fail(Failure failure) {
    {
      const std::lock_guard lock(mutex_);
      if (extra_) up_.budget.give_back();
      extra_ = false;
      if (self_ != nullptr && failure.retry && made_ < up_.options.max_attempts && up_.budget.take()) {
        extra_ = true;
        up_.metrics.retries.add();
        std::mt19937_64 random{std::random_device{}()};
        const auto wait =
            std::max(failure.failed.retry_after, backoff(made_, up_.options.retry_base, up_.options.retry_cap, random));
        call_ = up_.client().after(wait, [weak = weak_from_this()] {
          const auto self = weak.lock();
          if (!self) return;
          const std::lock_guard again(self->mutex_);
          if (self->self_ != nullptr) self->launch();
        });
        return;
      }
    }
    up_.metrics.failures.add();
    finish(std::unexpected(std::move(failure.failed)));
  }

  void finish(std::expected<engine::Embeddings, Refusal> result) {
    std::shared_ptr<Errand> self;
    std::unique_ptr<net::Call> call;
    {
      const std::lock_guard lock(mutex_);
      self = std::exchange(self_, nullptr);
      if (self == nullptr) return;
      call = std::move(call_);
      if (std::exchange(extra_, false)) up_.budget.give_back();
      up_.budget.ended();
    }
    done_(std::move(result));
  }

  UpstreamState& up_;
  const engine::EmbedRequest request_;
  const net::ClientRequest order_;
  const engine::Embedder::Done done_;
  const engine::Clock::time_point asked_ = engine::Clock::now();

  // The client's thread only, but before the first call is sent.
  int status_ = 0;
  net::Headers headers_;
  std::string body_;

  std::recursive_mutex mutex_;
  int made_ = 0;        // GUARDED_BY(mutex_), as is the rest
  bool extra_ = false;  // a part of the retry budget is held
  std::unique_ptr<net::Call> call_;
  std::shared_ptr<Errand> self_;
  std::optional<std::stop_callback<std::function<void()>>> stop_;
};

}  // namespace

void run_errand(UpstreamState& upstream, engine::EmbedRequest request, const std::string& model,
                engine::Embedder::Done done) {
  auto order = upstream.wire().ask_vectors(request, model);
  if (!order) return done(std::unexpected(Refusal{.error = std::move(order).error()}));
  std::make_shared<Errand>(upstream, std::move(request), std::move(*order), std::move(done))->begin();
}

}  // namespace ashlar::gateway
