// POST /v1/completions
#include <fmt/format.h>

#include <algorithm>
#include <iterator>

#include "api/dialect.h"
#include "api/routes.h"
#include "base/json_full.h"

namespace ashlar::api {
namespace {

constexpr std::size_t kMaxChoices = 2048;  // of one request: prompts times n

struct Settings {
  int logprobs = -1;
  bool echo_logprobs = false;    // the prompt's tokens are listed too
  bool prompt_logprobs = false;  // asked by that name
};

class CompletionDialect final : public Dialect {
 public:
  // ids: of each prompt, if they are to be shown.
  CompletionDialect(Reply reply, Settings settings, std::vector<std::vector<std::int32_t>> ids)
      : reply_(std::move(reply)), settings_(settings), ids_(std::move(ids)) {
    std::string id, model;
    append_json_string(id, reply_.id);
    append_json_string(model, reply_.model);
    head_ = fmt::format(R"({{"id":{},"object":"text_completion","created":{},"model":{},"choices":[)", id,
                        reply_.created, model);
  }

  // In a stream, a choice's logprobs and extras are those not yet sent.
  void started(Choice& choice, const engine::Started& started, std::string&) override {
    if (settings_.echo_logprobs) append_logprobs(choice, started.prompt_logprobs, true);
    if (reply_.token_ids) append_ids(choice.extras.append(R"(,"prompt_token_ids":)"), ids_[choice.prompt]);
    if (settings_.prompt_logprobs)
      choice.extras += R"(,"prompt_logprobs":)" + prompt_logprobs_json(started.prompt_logprobs);
  }

  void text(Choice& choice, const engine::Text& text, const engine::Usage& usage, std::string& out) override {
    if (settings_.logprobs >= 0) append_logprobs(choice, text.logprobs, false);
    if (!reply_.stream) {
      choice.text.append(text.text);
      if (reply_.token_ids) choice.ids.insert(choice.ids.end(), text.ids.begin(), text.ids.end());
      return;
    }
    if (text.text.empty() && choice.logprobs.tokens.empty() && !reply_.token_ids) return;
    write_chunk(out, choice, text.text, text.ids, usage);
  }

  void members(Choice& choice, const engine::Members& more, const engine::Usage& usage, std::string& out) override {
    const bool of_choice = more.of == engine::Members::Of::choice;
    if (!of_choice && more.of != engine::Members::Of::answer) return;
    if (!reply_.stream) {
      auto& kept = of_choice ? choice.beside : beside_;
      if (kept == nullptr) kept = std::make_shared<Json>(Json::object());
      return put_beside(*kept, of_choice ? *more.json : with_prompt(*more.json, choice.prompt));
    }
    if (of_choice) {
      append_members(choice.extras, more.json.get());
      return write_chunk(out, choice, "", {}, usage);
    }
    const Json said = with_prompt(*more.json, choice.prompt);
    out.append("data: ").append(head_).append("]");
    append_members(out, &said);
    close_chunk(out, usage);
  }

  void ended(Choice& choice, const engine::Usage& usage, std::string& out) override {
    if (reply_.stream) write_chunk(out, choice, "", {}, usage);
  }

  void usage(const engine::Usage& usage, std::string& out) override {
    fmt::format_to(std::back_inserter(out), "data: {}],\"usage\":{}}}\n\n", head_, usage_json(usage));
  }

  std::string whole(std::span<const Choice> choices, const engine::Usage& usage) override {
    std::string out = head_;
    for (const Choice& choice : choices) {
      if (choice.index > 0) out.push_back(',');
      write_choice(out, choice, choice.text, choice.ids);
    }
    fmt::format_to(std::back_inserter(out), R"(],"usage":{})", usage_json(usage));
    append_members(out, beside_.get());
    return out.append("}");
  }

 private:
  // Each prompt was asked apart, as the first.
  static Json with_prompt(Json members, int prompt) {
    for (Json& list : members)
      for (Json& each : list)
        if (each.is_object() && each.contains("prompt_index")) each["prompt_index"] = prompt;
    return members;
  }

  void write_choice(std::string& out, const Choice& choice, std::string_view text,
                    std::span<const std::int32_t> ids) const {
    const LogprobLists& lists = choice.logprobs;
    fmt::format_to(std::back_inserter(out), R"({{"index":{},"text":)", choice.index);
    append_json_string(out, text);
    if (settings_.logprobs >= 0 && (!reply_.stream || !lists.tokens.empty()))
      fmt::format_to(std::back_inserter(out),
                     R"(,"logprobs":{{"tokens":[{}],"token_logprobs":[{}],"top_logprobs":[{}],"text_offset":[{}]}})",
                     lists.tokens, lists.token_logprobs, lists.top_logprobs, lists.text_offset);
    else
      out.append(R"(,"logprobs":null)");
    fmt::format_to(std::back_inserter(out), R"(,"finish_reason":{},"stop_reason":{})", choice.finish_reason,
                   choice.stop_reason);
    if (reply_.token_ids) append_ids(out.append(R"(,"token_ids":)"), ids);
    out.append(choice.extras);
    append_members(out, choice.beside.get());
    out.push_back('}');
  }

  void write_chunk(std::string& out, Choice& choice, std::string_view text, std::span<const std::int32_t> ids,
                   const engine::Usage& usage) const {
    out.append("data: ");
    out.append(head_);
    write_choice(out, choice, text, ids);
    choice.logprobs = {};
    choice.extras.clear();
    out.push_back(']');
    close_chunk(out, usage);
  }

  void close_chunk(std::string& out, const engine::Usage& usage) const {
    if (reply_.continuous_usage)
      fmt::format_to(std::back_inserter(out), R"(,"usage":{})", usage_json(usage));
    else if (reply_.include_usage)
      out.append(R"(,"usage":null)");
    out.append("}\n\n");
  }

  // `prompt`: these are the prompt's tokens, whose first has no logprob.
  void append_logprobs(Choice& choice, std::span<const engine::TokenLogprob> logprobs, bool prompt) const {
    LogprobLists& lists = choice.logprobs;
    for (std::size_t i = 0; i < logprobs.size(); ++i) {
      const auto& token = logprobs[i];
      if (!lists.tokens.empty())
        for (std::string* list : {&lists.tokens, &lists.token_logprobs, &lists.top_logprobs, &lists.text_offset})
          list->push_back(',');
      append_token(lists.tokens, token.id, token.bytes, reply_.tokens_as_ids);
      fmt::format_to(std::back_inserter(lists.text_offset), "{}", choice.characters);
      choice.characters +=
          static_cast<std::size_t>(std::ranges::count_if(token.bytes, [](char c) { return (c & 0xC0) != 0x80; }));
      if (prompt && i == 0) {
        lists.token_logprobs.append("null");
        lists.top_logprobs.append("null");
        continue;
      }
      append_logprob(lists.token_logprobs, token.logprob);
      append_top(lists.top_logprobs, token);
    }
  }

  // {"token": logprob}: the alternatives, and the token itself if it is not among them.
  void append_top(std::string& out, const engine::TokenLogprob& token) const {
    out.push_back('{');
    bool listed = false;
    for (const auto& alternative : token.top) {
      if (&alternative != token.top.data()) out.push_back(',');
      append_token(out, alternative.id, alternative.bytes, reply_.tokens_as_ids);
      out.push_back(':');
      append_logprob(out, alternative.logprob);
      listed = listed || alternative.id == token.id;
    }
    if (!listed) {
      if (!token.top.empty()) out.push_back(',');
      append_token(out, token.id, token.bytes, reply_.tokens_as_ids);
      out.push_back(':');
      append_logprob(out, token.logprob);
    }
    out.push_back('}');
  }

  const Reply reply_;
  const Settings settings_;
  const std::vector<std::vector<std::int32_t>> ids_;
  std::string head_;              // up to and with `"choices":[`
  std::shared_ptr<Json> beside_;  // members of the whole answer, put together; null: none
};

void read_settings(Fields& fields, engine::Request& request, Settings& settings) {
  fields.read("echo", request.echo);
  fields.read("logprobs", settings.logprobs, {0, 20});
  request.logprobs = settings.logprobs;
  settings.echo_logprobs = request.echo && settings.logprobs >= 0;
  settings.prompt_logprobs = request.prompt_logprobs >= 0;
  if (settings.echo_logprobs) request.prompt_logprobs = std::max(request.prompt_logprobs, settings.logprobs);
  request.stopping.max_tokens = 16;  // OpenAI's default
  fields.read("max_tokens", request.stopping.max_tokens, {0});
  if (request.stopping.max_tokens == 0 && !request.echo)
    fields.fail(bad("max_tokens", "'max_tokens' is 0, which needs \"echo\": true"));
  if (request.stopping.min_tokens > request.stopping.max_tokens)
    fields.fail(bad("min_tokens", "'min_tokens' is greater than 'max_tokens'"));
  int best_of = request.n;
  fields.read("best_of", best_of, {1, 128});
  if (request.body) return;  // for another server
  fields.refuse("suffix");
  if (best_of != request.n) fields.fail(not_yet("best_of", "'best_of' other than 'n'"));
}

}  // namespace

Outcome<void> completions(Call& call) {
  engine::Request base;  // it has arrived: what follows is counted as ours
  engine::Generator& generator = *TRY(call.generator());
  const auto body = std::make_shared<const Json>(TRY(parse_body(call.request())));
  Fields fields(*body);
  const auto model = TRY(find_model(call, generator, fields));

  if (model.foreign) base.body = body;
  sign(call, model, base);
  read_generation(call, fields, model, base);
  Settings settings;
  read_settings(fields, base, settings);
  cap_output(call, fields, base.stopping);
  Reply reply = read_reply(fields, model, "cmpl-");
  fields.read("add_special_tokens", base.prompt.add_special_tokens);
  TRY(fields.done());
  auto prompts = TRY(read_texts(fields, "prompt", id_limit(model), kMaxChoices));
  if (prompts.size() * static_cast<std::size_t>(base.n) > kMaxChoices)
    return bad("n", fmt::format("{} prompts times n = {} are too many answers; at most {} are allowed", prompts.size(),
                                base.n, kMaxChoices));

  Requests requests;
  for (TextInput& input : prompts) {
    engine::Request request = base;
    request.id = "text-" + random_hex(24);
    std::visit([&](auto& text) { request.prompt.input = std::move(text); }, input);
    requests.push_back(std::move(request));
  }
  with_prompt_ids(call.exchange, generator, reply.token_ids && !model.foreign, std::move(requests),
                  [call, &generator, reply, settings](PromptIds ids, Requests asked) {
                    ids.resize(asked.size());  // another server's model has none
                    auto dialect = std::make_unique<CompletionDialect>(reply, settings, std::move(ids));
                    call.shared.keeper->start(call.exchange, generator, std::move(dialect), reply, std::move(asked));
                  });
  return {};
}

}  // namespace ashlar::api
