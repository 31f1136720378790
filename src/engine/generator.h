// The face of everything that generates text: our engine, and later an upstream
// or a router over many. api/ and the agents see nothing else.
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "base/json.h"
#include "base/result.h"

namespace ashlar::engine {

using Clock = std::chrono::steady_clock;

// A conversation, rendered by the model's own template.
struct Chat {
  std::shared_ptr<const Json> messages;         // array, as OpenAI writes it
  std::shared_ptr<const Json> tools;            // array, or null
  std::shared_ptr<const Json> template_kwargs;  // object of further template variables, or null
  std::string chat_template;                    // instead of the model's own, if not empty
  bool add_generation_prompt = true;
  bool continue_final_message = false;
  bool add_special_tokens = false;  // templates write their own
};

struct Prompt {
  // text: tokenized with BOS where the model wants it. ids: taken as they are.
  std::variant<Chat, std::string, std::vector<std::int32_t>> input;
  bool add_special_tokens = true;  // for text
};

struct Sampling {
  float temperature = 1;
  int top_k = 0;  // 0 or -1: all
  float top_p = 1;
  float min_p = 0;
  float typical_p = 1;
  float repetition_penalty = 1;  // over prompt and answer
  float presence_penalty = 0;    // over the answer
  float frequency_penalty = 0;
  std::vector<std::pair<std::int32_t, float>> logit_bias;
  std::vector<std::int32_t> allowed_token_ids;  // empty: all
  std::optional<std::uint64_t> seed;
};

struct Stopping {
  int max_tokens = -1;  // -1: as many as the context holds
  int min_tokens = 0;
  std::vector<std::string> stop;
  std::vector<std::int32_t> stop_token_ids;
  bool ignore_eos = false;
  bool include_stop_in_output = false;
};

// Who guesses the tokens that come next, so that one step of the model confirms
// several: what stood in the prompt, the prediction or the answer before (ngram), a
// small model (draft), or whichever guesses better.
enum class Speculation { off, ngram, draft, automatic };
std::optional<Speculation> speculation_of(std::string_view name);  // "off", "ngram", "draft", "auto"

// How an answer is guessed ahead: it changes when its tokens come, never which.
struct Speculating {
  std::optional<Speculation> by;  // nothing: as the engine is set
  int most = -1;                  // tokens guessed at once; -1: as the engine is set, which is the most in any case
  std::string prediction;         // text that much of the answer may repeat
};

// How long its model stays in memory once nobody uses it, where models come and go: 0: it leaves at once; below 0: it
// stays until another needs its room; nothing: as the request before it said, or else the server's options.
using KeepAlive = std::optional<std::chrono::milliseconds>;

// Who sends a request, as was proved, and what they say of its way: what gateways decide by. Engines do not look at it.
struct Sender {
  std::string key, user, team;                            // beside Request::tenant
  std::vector<std::pair<std::string, std::string>> tags;  // costs are told apart by them
  std::string session;                                    // its requests may stay together
  std::vector<std::string> data_classes;                  // of what the prompt holds, "sensitive"; in small letters
  std::string cache_control;                              // as HTTP's header
  std::string request_id;                                 // their own name for the request; "": they gave none
  bool explain = false;                                   // where it went, and why, is told in the answer's header
  std::string counted_as;  // where the model was asked for by an alias, what that stands for: limits, prices and
                           // accounts know it by this name; "": by the request's
};

// For the client, as HTTP headers beside the answer.
using Notes = std::vector<std::pair<std::string, std::string>>;

// How far an answer has come to its client. Whoever sends the answer makes it and sees to it that `*count` is `value`
// once all that was told until then is out of this process; whoever accounts for it sets the two.
struct Delivery {
  std::shared_ptr<std::atomic<std::uint64_t>> count;  // set before the first event; null: nobody wants to know
  std::uint64_t value = 0;                            // set before each event, on its thread
  std::string name;                                   // what the client is told that its answer is called; "": nothing
};

struct Tokenized;
class CachedPrefixes;

// Lower is more urgent. A class is served before the next; within one, tenants
// take turns by the tokens they used.
struct Request {
  std::string id;      // "chatcmpl-..."; unique
  std::string model;   // a served name
  std::string tenant;  // who pays: fairness and the prefix cache's salt
  std::string cache_salt;
  int priority = 0;
  Prompt prompt;
  // This very prompt, by tokenize() of whoever may answer: who changes the prompt drops it. Null: nobody did it yet.
  std::shared_ptr<const Tokenized> tokenized;
  int n = 1;
  Sampling sampling;
  Stopping stopping;
  Speculating speculating;
  int logprobs = -1;         // -1: none; else how many alternatives of each token, 0 to 20
  int prompt_logprobs = -1;  // the same for the prompt's own tokens
  bool skip_special_tokens = true;
  bool echo = false;  // the prompt's text comes first
  // False: whoever asks waits for the end, so that text which comes at once may be told as one piece.
  bool in_pieces = true;
  KeepAlive keep_alive;
  // The request as its client wrote it, in OpenAI's form, for generators that hand it on to another server: there, and
  // only there, is what the fields do not hold (tool_choice, response_format, reasoning_effort...), and what the client
  // left unsaid is unsaid. Of model, prompt, n and the most tokens the fields tell the truth. Null: the fields are all.
  // Our engine does not look at it.
  std::shared_ptr<const Json> body;
  Sender sender;
  // Asked for by who routes by what is cached where: the engine notes this prompt's beginnings under it (prefixes.h).
  // It stands for all that the prompt's tokens and the cache depend on beside its text, the tenant above all.
  std::optional<std::uint64_t> prefix_salt;
  // Whoever is on the way adds to it before it hands the request on. Null: nobody wants to know.
  std::shared_ptr<Notes> notes;
  // Null: whoever sends the answer cannot tell how far it comes.
  std::shared_ptr<Delivery> delivery;
  Clock::time_point arrived = Clock::now();
  Clock::time_point deadline = Clock::time_point::max();
};

struct TokenLogprob {
  std::int32_t id = 0;
  float logprob = 0;
  std::string bytes;  // the token's raw bytes: may be part of a character
  struct Alternative {
    std::int32_t id = 0;
    float logprob = 0;
    std::string bytes;
  };
  std::vector<Alternative> top;
};

// function_call: OpenAI's older form of tool_calls.
enum class FinishReason { stop, length, tool_calls, function_call, content_filter, abort };
std::string_view name(FinishReason reason);

struct Usage {
  int prompt_tokens = 0;
  int completion_tokens = 0;
  int cached_tokens = 0;   // of the prompt, found in the prefix cache
  int written_tokens = 0;  // of the prompt, written to the cache: where its server counts them apart
  int hour_tokens = 0;     // of those, to be kept for an hour: dearer
  int reasoning_tokens = 0;
  int accepted_tokens = 0, rejected_tokens = 0;  // guessed ahead: those of the answer, and the others
  bool estimated = false;  // by the length of the texts: another server did not say, or said what cannot be
  bool kept = false;       // an answer that was given before: nothing was computed for it
};

// What happens to a request, in this order: Started, then Text, Reasoning, ToolCall,
// Members and ChoiceEnd mixed over the choices, then one Finished; or Failed at any
// point, alone last.
struct Started {
  int prompt_tokens = 0;
  int cached_tokens = 0, written_tokens = 0, hour_tokens = 0;  // as Usage has them
  std::vector<std::int32_t> prompt_ids;                        // when echo or prompt_logprobs is asked
  std::vector<TokenLogprob> prompt_logprobs;  // [prompt_tokens]; the first has logprob 0 and no alternatives
  std::string deployment;                     // of the route, who answers; "": nobody chose
  // When it was handed to who computes it, another server or the engine's queue; unset: nobody computes it.
  std::optional<Clock::time_point> asked;
};
struct Text {
  int choice = 0;
  std::string text;                    // whole UTF-8 characters; may be empty when only logprobs are ready
  std::vector<std::int32_t> ids;       // the tokens that gave it
  std::vector<TokenLogprob> logprobs;  // one for each id, if asked
  int counted = 0;                     // tokens of the answer up to here, where its server says it; else 0
};
// Thoughts before the answer, where the model's server tells them apart from it.
struct Reasoning {
  int choice = 0;
  std::string text;
  int counted = 0;  // as Text has it
};
// A piece of a call that the answer makes. The first of each `index` (0, 1...) has the id and the name; the arguments,
// a JSON text, are all the pieces together; any text, where the tool is a custom one.
struct ToolCall {
  int choice = 0, index = 0;
  std::string id, name;
  std::string arguments;
  bool custom = false;
  int counted = 0;  // as Text has it
};
// Further members of the answer as OpenAI's events have them, of its message (refusal, annotations,
// thinking_blocks...), of the choice or of the whole answer (Azure's filter results): strings and arrays go on those of
// the same name before.
struct Members {
  enum class Of { message, choice, answer };
  int choice = 0;
  std::shared_ptr<const Json> json;  // an object
  Of of = Of::message;
};
struct ChoiceEnd {
  int choice = 0;
  FinishReason reason = FinishReason::stop;
  std::optional<std::string> stop_string;  // which one matched
  std::optional<std::int32_t> stop_token;
};
struct Finished {
  Usage usage;
  double queue_seconds = 0, prefill_seconds = 0, decode_seconds = 0;
};
// Why a request was let go of for want of room, by the names that the scheduler of Kubernetes' inference gateway has.
enum class Dropped {
  no,
  saturated,  // "rejected-saturated": as many wait as may, or it would wait too long
  expired,    // "rejected-ttl-expired": it waited too long
  outranked,  // "evicted-priority": a more urgent one has its place
};
std::string_view name(Dropped why);  // "" of `no`

struct Failed {
  Error error;
  std::chrono::milliseconds retry_after{0};  // > 0: say so to the client
  bool over_context = false;                 // what is wrong: the prompt and max_tokens do not fit the context
  int status = 0;      // HTTP's for the client, where it says more than the error's code (502, 504, 422); 0: the code's
  std::string reason;  // OpenAI's `code` ("content_filter"); "": the error code's
  std::string param;   // the member of the request at fault, where another server names it
  Dropped dropped = Dropped::no;
};
using Event = std::variant<Started, Text, Reasoning, ToolCall, Members, ChoiceEnd, Finished, Failed>;

// Called on the generator's own thread, one event at a time: hand over and
// return. Never called again after Finished or Failed, nor after the ticket
// died (whose destruction waits for a call in progress).
class Sink {
 public:
  virtual ~Sink() = default;
  virtual void on(Event event) = 0;
};

// A running request. Dropping it cancels: its work stops within one step.
class Ticket {
 public:
  virtual ~Ticket() = default;
};

struct ModelCard {
  std::string id;
  std::int64_t created = 0;  // seconds since 1970
  int context = 0;           // max_model_len
  std::int64_t parameters = 0;
  std::int64_t bytes = 0;
  int vocabulary = 0;
  bool has_chat_template = false;
  Sampling sampling;   // what a request gets where it says nothing: the publisher's advice
  std::string parent;  // of an adapter, the model that it belongs to: "PARENT:ID" means it too
  std::string root;    // of an adapter, where it was loaded from
  bool generates = true;
  int embedding = 0;   // elements of the vectors that it makes of texts; 0: none
  bool ranks = false;  // documents, by a query
  // Another server answers: its template, tokenizer (a vocabulary of 0 is unknown) and grammars. It gets conversations
  // as their clients wrote them, with Request::body.
  bool foreign = false;
  std::string owner;     // who serves it, for GET /v1/models; "": we
  std::string alias_of;  // `id` is but another name of this model; "": it is its own
};

// An adapter to be served under a name of its own.
struct AdapterOrder {
  std::string model;  // whose it is; empty: the first model's
  std::string name, path;
  bool replace = false;  // may take the place of the one called so
};

struct Tokenized {
  std::vector<std::int32_t> ids;
  std::vector<std::string> pieces;  // raw bytes, one for each id
  int context = 0;
  std::string text;                // the prompt as it was rendered; empty where ids were sent
  std::shared_ptr<const void> by;  // who did it, and need not do it again for this prompt; null: nobody in this process
};

// Any thread may call. Errors that are known at once (unknown model: not_found;
// prompt over the context: invalid; queue full: exhausted or unavailable) come
// as the result of start(); later ones as Failed.
class Generator {
 public:
  virtual ~Generator() = default;

  // The same, known at once.
  using Refusal = Failed;
  // Renders and tokenizes on the caller's thread, then queues. `sink` must live
  // until its last event or until the ticket is dropped.
  virtual std::expected<std::unique_ptr<Ticket>, Refusal> start(Request request, Sink& sink) = 0;

  virtual std::vector<ModelCard> models() const = 0;
  // The one of models() that a request means which names its model so: by its id or, an adapter's, "PARENT:ID".
  virtual std::optional<ModelCard> card(const std::string& model) const;
  virtual Result<Tokenized> tokenize(const std::string& model, const Prompt& prompt, bool parse_special) const = 0;
  virtual Result<std::string> detokenize(const std::string& model, const std::vector<std::int32_t>& ids) const = 0;
  virtual Result<std::string> render(const std::string& model, const Chat& chat) const = 0;
  // Whom to ask for these three where nobody may wait: calls `then` with a generator that answers at once, valid during
  // the call; on another thread where the model has yet to come into memory. Errors: what keeps it from coming.
  virtual void when_ready(const std::string& model, std::function<void(Result<const Generator*>)> then) const {
    (void)model;
    then(this);
  }

  // Loads an adapter while everything goes on, then calls `done`, perhaps on another thread. invalid: the name is
  // taken, or it is for another base; not_found, io, corrupt, unsupported: what is at the path.
  virtual void load_adapter(AdapterOrder order, std::function<void(Status)> done) {
    done(Error{Code::unsupported, "'" + order.name + "': this model takes no adapters"});
  }
  // Requests that use it go on. not_found: there is none of that name.
  virtual Status unload_adapter(const std::string& name) {
    return Error{Code::not_found, "there is no adapter called '" + name + "'"};
  }

  // What is in the prefix cache of `model` (prefixes.h): of the model as it is in memory now, so that nobody should
  // keep it. Null: nobody here knows.
  virtual std::shared_ptr<const CachedPrefixes> cached_prefixes(const std::string& model) const {
    (void)model;
    return nullptr;
  }

  // What the page and /health show.
  struct Load {
    int running = 0, waiting = 0;
    double kv_used = 0;                                                  // share, 0 to 1
    double prefill_tokens_per_second = 0, decode_tokens_per_second = 0;  // over the last seconds
    bool healthy = true;
  };
  virtual Load load() const = 0;
};

// generator.load_adapter(), waited for.
Status add_adapter(Generator& generator, AdapterOrder order);

}  // namespace ashlar::engine
