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
  bool echo = false;
  int logprobs = -1;
  bool prompt_logprobs = false;  // asked by that name
  bool nothing_new = false;      // max_tokens 0: only the prompt is of interest
};

class CompletionDialect final : public Dialect {
 public:
  // prompts: their texts (for echo) and ids (for token_ids), or empty.
  CompletionDialect(Reply reply, Settings settings, std::vector<std::string> texts,
                    std::vector<std::vector<std::int32_t>> ids)
      : reply_(std::move(reply)), settings_(settings), texts_(std::move(texts)), ids_(std::move(ids)) {
    std::string id, model;
    append_json_string(id, reply_.id);
    append_json_string(model, reply_.model);
    head_ = fmt::format(R"({{"id":{},"object":"text_completion","created":{},"model":{},"choices":[)", id,
                        reply_.created, model);
  }

  void started(Choice& choice, const engine::Started& started, std::string& out) override {
    LogprobLists lists;
    if (settings_.echo && settings_.logprobs >= 0) append_logprobs(lists, choice, started.prompt_logprobs, true);
    std::string extras;
    if (reply_.token_ids) append_ids(extras.append(R"(,"prompt_token_ids":)"), ids_[choice.prompt]);
    if (settings_.prompt_logprobs) extras += R"(,"prompt_logprobs":)" + prompt_logprobs_json(started.prompt_logprobs);
    if (reply_.stream) {
      if (!settings_.echo && extras.empty()) return;
      write_chunk(out, choice, settings_.echo ? texts_[choice.prompt] : std::string_view(), lists, extras,
                  {.prompt_tokens = started.prompt_tokens, .cached_tokens = started.cached_tokens});
    } else {
      if (settings_.echo) choice.text = texts_[choice.prompt];
      choice.logprobs = std::move(lists);
      choice.extras = std::move(extras);
    }
  }

  void text(Choice& choice, const engine::Text& text, const engine::Usage& usage, std::string& out) override {
    if (settings_.nothing_new) return;
    if (!reply_.stream) {
      choice.text.append(text.text);
      if (reply_.token_ids) choice.ids.insert(choice.ids.end(), text.ids.begin(), text.ids.end());
      append_logprobs(choice.logprobs, choice, text.logprobs, false);
      return;
    }
    if (text.text.empty() && text.logprobs.empty() && !reply_.token_ids) return;
    LogprobLists lists;
    append_logprobs(lists, choice, text.logprobs, false);
    std::string extras;
    if (reply_.token_ids) append_ids(extras.append(R"(,"token_ids":)"), text.ids);
    write_chunk(out, choice, text.text, lists, extras, usage);
  }

  void ended(Choice& choice, const engine::Usage& usage, std::string& out) override {
    if (settings_.nothing_new) {
      choice.finish_reason = R"("length")";
      choice.stop_reason = "null";
    }
    if (reply_.stream) write_chunk(out, choice, "", {}, "", usage);
  }

  void usage(const engine::Usage& usage, std::string& out) override {
    fmt::format_to(std::back_inserter(out), "data: {}],\"usage\":{}}}\n\n", head_, usage_json(shown(usage)));
  }

  std::string whole(std::span<const Choice> choices, const engine::Usage& usage) override {
    std::string out = head_;
    for (const Choice& choice : choices) {
      if (choice.index > 0) out.push_back(',');
      std::string extras = choice.extras;
      if (reply_.token_ids) append_ids(extras.append(R"(,"token_ids":)"), choice.ids);
      write_choice(out, choice, choice.text, choice.logprobs, extras);
    }
    fmt::format_to(std::back_inserter(out), R"(],"usage":{}}})", usage_json(shown(usage)));
    return out;
  }

 private:
  engine::Usage shown(engine::Usage usage) const {
    if (settings_.nothing_new) usage.completion_tokens = 0;
    return usage;
  }

  // extras: further members, each with a comma before it.
  void write_choice(std::string& out, const Choice& choice, std::string_view text, const LogprobLists& lists,
                    std::string_view extras) const {
    fmt::format_to(std::back_inserter(out), R"({{"index":{},"text":)", choice.index);
    append_json_string(out, text);
    if (settings_.logprobs >= 0 && (!reply_.stream || !lists.tokens.empty()))
      fmt::format_to(std::back_inserter(out),
                     R"(,"logprobs":{{"tokens":[{}],"token_logprobs":[{}],"top_logprobs":[{}],"text_offset":[{}]}})",
                     lists.tokens, lists.token_logprobs, lists.top_logprobs, lists.text_offset);
    else
      out.append(R"(,"logprobs":null)");
    fmt::format_to(std::back_inserter(out), R"(,"finish_reason":{},"stop_reason":{}{}}})", choice.finish_reason,
                   choice.stop_reason, extras);
  }

  void write_chunk(std::string& out, const Choice& choice, std::string_view text, const LogprobLists& lists,
                   std::string_view extras, const engine::Usage& usage) const {
    out.append("data: ");
    out.append(head_);
    write_choice(out, choice, text, lists, extras);
    out.push_back(']');
    if (reply_.continuous_usage)
      fmt::format_to(std::back_inserter(out), R"(,"usage":{})", usage_json(shown(usage)));
    else if (reply_.include_usage)
      out.append(R"(,"usage":null)");
    out.append("}\n\n");
  }

  // `prompt`: these are the prompt's tokens, whose first has no logprob.
  void append_logprobs(LogprobLists& lists, Choice& choice, std::span<const engine::TokenLogprob> logprobs,
                       bool prompt) const {
    if (settings_.logprobs < 0) return;
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
  const std::vector<std::string> texts_;
  const std::vector<std::vector<std::int32_t>> ids_;
  std::string head_;  // up to and with `"choices":[`
};

using Input = std::variant<engine::Chat, std::string, std::vector<std::int32_t>>;

// A string, [string], [int] or [[int]].
Outcome<std::vector<Input>> read_prompts(Fields& fields, int vocabulary) {
  const Json* prompt = fields.find("prompt");
  if (prompt == nullptr) return bad("prompt", "'prompt' is missing: send a string, or token ids");
  std::vector<Input> out;
  if (prompt->is_string()) {
    out.emplace_back(prompt->get<std::string>());
    return out;
  }
  if (!prompt->is_array())
    return bad("prompt", fmt::format("'prompt' should be a string or an array, not {}", kind(*prompt)));
  if (prompt->empty()) return bad("prompt", "'prompt' is empty");
  if (prompt->front().is_number()) {
    out.emplace_back(TRY(read_token_ids(*prompt, "prompt", vocabulary)));
    return out;
  }
  if (prompt->size() > kMaxChoices)
    return bad("prompt", fmt::format("'prompt' has {} prompts; at most {} are allowed", prompt->size(), kMaxChoices));
  for (const Json& item : *prompt) {
    if (item.is_string() && prompt->front().is_string())
      out.emplace_back(item.get<std::string>());
    else if (item.is_array() && prompt->front().is_array())
      out.emplace_back(TRY(read_token_ids(item, "prompt", vocabulary)));
    else
      return bad("prompt",
                 fmt::format("'prompt' should hold strings, token ids, or arrays of token ids, not {} among them",
                             kind(item)));
  }
  for (const Input& input : out)
    if (const auto* ids = std::get_if<std::vector<std::int32_t>>(&input); ids != nullptr && ids->empty())
      return bad("prompt", "'prompt' holds an empty array of token ids");
  return out;
}

void read_settings(Fields& fields, engine::Request& request, Settings& settings) {
  fields.read("echo", settings.echo);
  fields.read("logprobs", settings.logprobs, {0, 20});
  request.logprobs = settings.logprobs;
  request.stopping.max_tokens = 16;  // OpenAI's default
  fields.read("max_tokens", request.stopping.max_tokens, {0});
  if (request.stopping.max_tokens == 0) {
    if (!settings.echo) fields.fail(bad("max_tokens", "'max_tokens' is 0, which needs \"echo\": true"));
    settings.nothing_new = true;
    request.stopping.max_tokens = 1;  // made and not shown
  }
  if (request.stopping.min_tokens > request.stopping.max_tokens)
    fields.fail(bad("min_tokens", "'min_tokens' is greater than 'max_tokens'"));
  fields.refuse("suffix");
  int best_of = request.n;
  fields.read("best_of", best_of, {1, 128});
  if (best_of != request.n) fields.fail(not_yet("best_of", "'best_of' other than 'n'"));
}

}  // namespace

Outcome<void> completions(Call& call) {
  engine::Generator& generator = *TRY(call.generator());
  const Json body = TRY(parse_body(call.request().body));
  Fields fields(body);
  const auto model = TRY(find_model(generator, fields));

  engine::Request base;
  base.tenant = call.tenant;
  read_generation(fields, model, base);
  Settings settings;
  read_settings(fields, base, settings);
  Reply reply = read_reply(fields, model, "cmpl-");
  fields.read("add_special_tokens", base.prompt.add_special_tokens);
  TRY(fields.done());
  auto prompts = TRY(read_prompts(fields, model.vocabulary));
  if (prompts.size() * static_cast<std::size_t>(base.n) > kMaxChoices)
    return bad("n", fmt::format("{} prompts times n = {} are too many answers; at most {} are allowed", prompts.size(),
                                base.n, kMaxChoices));

  settings.prompt_logprobs = base.prompt_logprobs >= 0;
  if (settings.echo && settings.logprobs >= 0) base.prompt_logprobs = std::max(base.prompt_logprobs, settings.logprobs);
  std::vector<engine::Request> requests;
  std::vector<std::string> texts;
  std::vector<std::vector<std::int32_t>> ids;
  for (Input& input : prompts) {
    engine::Request request = base;
    request.id = "text-" + random_hex(24);
    request.prompt.input = std::move(input);
    if (settings.echo) {
      const auto* text = std::get_if<std::string>(&request.prompt.input);
      texts.push_back(text != nullptr ? *text
                                      : TRY(generator.detokenize(
                                            model.id, std::get<std::vector<std::int32_t>>(request.prompt.input))));
    }
    if (reply.token_ids) ids.push_back(TRY(generator.tokenize(model.id, request.prompt, true)).ids);
    requests.push_back(std::move(request));
  }
  auto dialect = std::make_unique<CompletionDialect>(reply, settings, std::move(texts), std::move(ids));
  call.shared.keeper->start(call.exchange, generator, std::move(dialect), std::move(reply), std::move(requests));
  return {};
}

}  // namespace ashlar::api
