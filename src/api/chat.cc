// POST /v1/chat/completions
#include <fmt/format.h>

#include <algorithm>
#include <iterator>

#include "api/dialect.h"
#include "api/messages.h"
#include "api/routes.h"
#include "base/json_full.h"

namespace ashlar::api {
namespace {

// What a whole message has of a member that came in pieces: strings and arrays in a row, also those of an object; what
// names something (an id...) is said once.
void put_behind(Json& kept, const Json& more) {
  if (kept.is_string() && more.is_string()) {
    kept.get_ref<std::string&>().append(more.get_ref<const std::string&>());
  } else if (kept.is_array() && more.is_array()) {
    kept.insert(kept.end(), more.begin(), more.end());
  } else if (kept.is_object() && more.is_object()) {
    for (const auto& [name, value] : more.items())
      if (!kept.contains(name) || (name != "id" && name != "name" && name != "type")) put_behind(kept[name], value);
  } else {
    kept = more;
  }
}

class ChatDialect final : public Dialect {
 public:
  ChatDialect(Reply reply, bool logprobs, std::string echo, std::span<const std::int32_t> prompt_ids)
      : reply_(std::move(reply)), logprobs_(logprobs), echo_(std::move(echo)) {
    if (reply_.token_ids) append_ids(prompt_ids_.assign(R"(,"prompt_token_ids":)"), prompt_ids);
    head_ = reply_.stream ? R"(data: {"id":)" : R"({"id":)";
    append_json_string(head_, reply_.id);
    head_.append(R"(,"object":"chat.completion)").append(reply_.stream ? R"(.chunk","created":)" : R"(","created":)");
    head_.append(fmt::format_int(reply_.created).str()).append(R"(,"model":)");
    append_json_string(head_, reply_.model);
    head_.append(R"(,"choices":[)");
  }

  void started(Choice& choice, const engine::Started& started, std::string& out) override {
    if (!started.prompt_logprobs.empty())
      prompt_logprobs_ = R"(,"prompt_logprobs":)" + prompt_logprobs_json(started.prompt_logprobs);
    if (!reply_.stream) {
      choice.text = echo_;
      return;
    }
    fmt::format_to(std::back_inserter(out), R"({}{{"index":{},"delta":{{"role":"assistant","content":)", head_,
                   choice.index);
    append_json_string(out, echo_);
    out.append(R"(},"logprobs":null,"finish_reason":null}])");
    out.append(prompt_ids_);
    out.append(prompt_logprobs_);
    close_chunk(out, {.prompt_tokens = started.prompt_tokens,
                      .cached_tokens = started.cached_tokens,
                      .written_tokens = started.written_tokens,
                      .hour_tokens = started.hour_tokens});
  }

  void text(Choice& choice, const engine::Text& text, const engine::Usage& usage, std::string& out) override {
    if (!reply_.stream) {
      choice.text.append(text.text);
      if (reply_.token_ids) choice.ids.insert(choice.ids.end(), text.ids.begin(), text.ids.end());
      append_logprobs(choice.logprobs.tokens, text.logprobs);
      return;
    }
    if (text.text.empty() && text.logprobs.empty() && !reply_.token_ids) return;
    fmt::format_to(std::back_inserter(out), R"({}{{"index":{},"delta":{{"content":)", head_, choice.index);
    append_json_string(out, text.text);
    out.append(R"(},"logprobs":)");
    if (logprobs_ && !text.logprobs.empty()) {
      std::string list;
      append_logprobs(list, text.logprobs);
      fmt::format_to(std::back_inserter(out), R"({{"content":[{}],"refusal":null}})", list);
    } else {
      out.append("null");
    }
    out.append(R"(,"finish_reason":null)");
    if (reply_.token_ids) {
      out.append(R"(,"token_ids":)");
      append_ids(out, text.ids);
    }
    out.append("}]");
    close_chunk(out, usage);
  }

  void reasoning(Choice& choice, const engine::Reasoning& thought, const engine::Usage& usage,
                 std::string& out) override {
    if (!reply_.stream) {
      choice.reasoning.append(thought.text);
      return;
    }
    std::string text;
    append_json_string(text, thought.text);
    write_delta(out, choice, fmt::format(R"({{"reasoning_content":{0},"reasoning":{0}}})", text), usage);
  }

  void tool_call(Choice& choice, const engine::ToolCall& call, const engine::Usage& usage, std::string& out) override {
    if (reply_.stream) return write_delta(out, choice, R"({"tool_calls":[)" + call_json(call, true) + "]}", usage);
    const auto begun = std::ranges::find(choice.calls, call.index, &engine::ToolCall::index);
    if (begun == choice.calls.end())
      choice.calls.push_back(call);
    else
      begun->arguments.append(call.arguments);
  }

  void members(Choice& choice, const engine::Members& more, const engine::Usage& usage, std::string& out) override {
    if (more.of != engine::Members::Of::message) return add_beside(choice, more, usage, out);
    if (reply_.stream) return write_delta(out, choice, dump_json(*more.json), usage);
    if (choice.members == nullptr) choice.members = std::make_shared<Json>(Json::object());
    for (const auto& [name, value] : more.json->items()) put_behind((*choice.members)[name], value);
  }

  void ended(Choice& choice, const engine::Usage& usage, std::string& out) override {
    if (!reply_.stream) return;
    fmt::format_to(std::back_inserter(out),
                   R"({}{{"index":{},"delta":{{}},"logprobs":null,"finish_reason":{},"stop_reason":{}}}])", head_,
                   choice.index, choice.finish_reason, choice.stop_reason);
    close_chunk(out, usage);
  }

  void usage(const engine::Usage& usage, std::string& out) override {
    fmt::format_to(std::back_inserter(out), "{}],\"usage\":{}}}\n\n", head_, usage_json(usage));
  }

  std::string whole(std::span<const Choice> choices, const engine::Usage& usage) override {
    std::string out = head_;
    for (const Choice& choice : choices) {
      fmt::format_to(std::back_inserter(out), R"({}{{"index":{},"message":{{"role":"assistant","content":)",
                     choice.index == 0 ? "" : ",", choice.index);
      if (choice.text.empty() && !choice.calls.empty())
        out.append("null");
      else
        append_json_string(out, choice.text);
      append_message_rest(out, choice);
      out.append(R"(},"logprobs":)");
      if (logprobs_)
        fmt::format_to(std::back_inserter(out), R"({{"content":[{}],"refusal":null}})", choice.logprobs.tokens);
      else
        out.append("null");
      fmt::format_to(std::back_inserter(out), R"(,"finish_reason":{},"stop_reason":{})", choice.finish_reason,
                     choice.stop_reason);
      if (reply_.token_ids) {
        out.append(R"(,"token_ids":)");
        append_ids(out, choice.ids);
      }
      append_members(out, choice.beside.get());
      out.push_back('}');
    }
    fmt::format_to(std::back_inserter(out), R"(],"usage":{}{}{})", usage_json(usage), prompt_logprobs_, prompt_ids_);
    append_members(out, beside_.get());
    return out.append("}");
  }

 private:
  void add_beside(Choice& choice, const engine::Members& more, const engine::Usage& usage, std::string& out) {
    const bool of_choice = more.of == engine::Members::Of::choice;
    if (!reply_.stream) {
      auto& kept = of_choice ? choice.beside : beside_;
      if (kept == nullptr) kept = std::make_shared<Json>(Json::object());
      return put_beside(*kept, *more.json);
    }
    out.append(head_);
    if (of_choice)
      fmt::format_to(std::back_inserter(out), R"({{"index":{},"delta":{{}},"logprobs":null,"finish_reason":null)",
                     choice.index);
    else
      out.append("]");
    append_members(out, more.json.get());
    if (of_choice) out.append("}]");
    close_chunk(out, usage);
  }

  void write_delta(std::string& out, const Choice& choice, std::string_view delta, const engine::Usage& usage) const {
    fmt::format_to(std::back_inserter(out), R"({}{{"index":{},"delta":{},"logprobs":null,"finish_reason":null}}])",
                   head_, choice.index, delta);
    close_chunk(out, usage);
  }

  // Within a stream a call has its index, and an id and name in its first piece alone.
  static std::string call_json(const engine::ToolCall& call, bool piece) {
    std::string out = "{";
    if (piece) fmt::format_to(std::back_inserter(out), R"("index":{},)", call.index);
    if (!piece || !call.id.empty()) {
      append_json_string(out.append(R"("id":)"), call.id);
      out.append(call.custom ? R"(,"type":"custom",)" : R"(,"type":"function",)");
    }
    out.append(call.custom ? R"("custom":{)" : R"("function":{)");
    if (!piece || !call.name.empty()) append_json_string(out.append(R"("name":)"), call.name), out.push_back(',');
    append_json_string(out.append(call.custom ? R"("input":)" : R"("arguments":)"), call.arguments);
    return out.append("}}");
  }

  // The members of a whole message behind its content, each with a comma before.
  static void append_message_rest(std::string& out, const Choice& choice) {
    const Json* more = choice.members.get();
    if (more == nullptr || !more->contains("refusal")) out.append(R"(,"refusal":null)");
    if (!choice.reasoning.empty())
      for (const std::string_view name : {R"(,"reasoning_content":)", R"(,"reasoning":)"})
        append_json_string(out.append(name), choice.reasoning);
    for (std::size_t i = 0; i < choice.calls.size(); ++i)
      out.append(i == 0 ? R"(,"tool_calls":[)" : ",").append(call_json(choice.calls[i], false));
    if (!choice.calls.empty()) out.push_back(']');
    append_members(out, more);
  }

  void close_chunk(std::string& out, const engine::Usage& usage) const {
    if (reply_.continuous_usage)
      fmt::format_to(std::back_inserter(out), R"(,"usage":{})", usage_json(usage));
    else if (reply_.include_usage)
      out.append(R"(,"usage":null)");
    out.append("}\n\n");
  }

  template <class Token>
  void append_token_logprob(std::string& out, const Token& token) const {
    out.append(R"({"token":)");
    append_token(out, token.id, token.bytes, reply_.tokens_as_ids);
    out.append(R"(,"logprob":)");
    append_logprob(out, token.logprob);
    out.append(R"(,"bytes":[)");
    for (std::size_t i = 0; i < token.bytes.size(); ++i)
      fmt::format_to(std::back_inserter(out), "{}{}", i > 0 ? "," : "", static_cast<unsigned char>(token.bytes[i]));
    out.push_back(']');
  }

  void append_logprobs(std::string& out, std::span<const engine::TokenLogprob> logprobs) const {
    if (!logprobs_) return;
    for (const auto& token : logprobs) {
      if (!out.empty()) out.push_back(',');
      append_token_logprob(out, token);
      out.append(R"(,"top_logprobs":[)");
      for (std::size_t i = 0; i < token.top.size(); ++i) {
        if (i > 0) out.push_back(',');
        append_token_logprob(out, token.top[i]);
        out.push_back('}');
      }
      out.append("]}");
    }
  }

  const Reply reply_;
  const bool logprobs_;
  const std::string echo_;                    // what every choice begins with
  std::string head_;                          // of the answer, or of each chunk: up to and with `"choices":[`
  std::string prompt_ids_, prompt_logprobs_;  // members, with a comma before
  std::shared_ptr<Json> beside_;              // of the answer, put together; null: none
};

void read_logprobs(Fields& fields, engine::Request& request) {
  bool wanted = false;
  int top = 0;
  fields.read("logprobs", wanted);
  fields.read("top_logprobs", top, {0, 20});
  if (wanted)
    request.logprobs = top;
  else if (top > 0)
    fields.fail(bad("top_logprobs", "'top_logprobs' needs \"logprobs\": true"));
}

void read_max_tokens(Fields& fields, engine::Stopping& stopping) {
  fields.read("max_tokens", stopping.max_tokens, {1});
  fields.read("max_completion_tokens", stopping.max_tokens, {1});
  if (stopping.max_tokens >= 0 && stopping.min_tokens > stopping.max_tokens)
    fields.fail(bad("min_tokens", "'min_tokens' is greater than the most tokens allowed"));
}

void refuse_what_is_no_text(Fields& fields) {
  fields.refuse("audio");
  fields.refuse("web_search_options");
  const Json* modalities = fields.read_array("modalities");
  if (modalities == nullptr) return;
  for (const Json& modality : *modalities)
    if (modality != "text") fields.fail(not_yet("modalities", "an answer that is no text"));
}

}  // namespace

Outcome<void> chat_completions(Call& call) {
  engine::Request request;  // it has arrived: what follows is counted as ours
  engine::Generator& generator = *TRY(call.generator());
  const auto body = std::make_shared<const Json>(TRY(parse_body(call.request())));
  Fields fields(*body);
  const auto model = TRY(find_model(call, generator, fields));

  if (model.foreign) request.body = body;
  request.id = "chat-" + random_hex(24);
  sign(call, model, request);
  auto chat = TRY(read_chat(fields, model.foreign ? body : nullptr));
  read_generation(call, fields, model, request);
  read_logprobs(fields, request);
  read_max_tokens(fields, request.stopping);
  cap_output(call, fields, request.stopping);
  if (!model.foreign) refuse_what_is_no_text(fields);
  Reply reply = read_reply(fields, model, "chatcmpl-");
  bool echo = false;
  fields.read("echo", echo);
  TRY(fields.done());

  // What is echoed is the message that the answer goes on with, not the whole prompt.
  std::string begun;
  if (echo && chat.continue_final_message && !model.foreign)
    if (const Json& content = chat.messages->back()["content"]; content.is_string()) begun = content.get<std::string>();
  request.prompt.input = std::move(chat);
  Requests requests;
  requests.push_back(std::move(request));
  with_prompt_ids(call.exchange, generator, reply.token_ids && !model.foreign, std::move(requests),
                  [call, &generator, reply, begun](const PromptIds& ids, Requests asked) {
                    const auto prompt_ids = ids.empty() ? std::span<const std::int32_t>() : std::span(ids.front());
                    auto dialect = std::make_unique<ChatDialect>(reply, asked.front().logprobs >= 0, begun, prompt_ids);
                    call.shared.keeper->start(call.exchange, generator, std::move(dialect), reply, std::move(asked));
                  });
  return {};
}

}  // namespace ashlar::api
