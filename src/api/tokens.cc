// POST /tokenize, /detokenize, /apply-template, in the shapes of vLLM and llama.cpp. A model that is not in memory is
// waited for by the request alone, not by its thread.
#include <fmt/format.h>

#include <functional>
#include <utility>

#include "api/dialect.h"
#include "api/generation.h"
#include "api/messages.h"
#include "api/routes.h"
#include "base/json_full.h"
#include "base/utf8.h"

namespace ashlar::api {
namespace {

// The body of an answer, from a generator whose model is in memory.
using Maker = std::function<Result<std::string>(const engine::Generator&)>;

void answer(const Call& call, const engine::Generator& generator, const std::string& model, Maker make) {
  generator.when_ready(model, [call, make = std::move(make)](const Result<const engine::Generator*>& ready) {
    auto body = ready ? make(**ready) : Result<std::string>(ready.error());
    if (!body) return respond_fault(*call.exchange, Fault(body.error()));
    call.respond_json(std::move(*body));
  });
}

std::string content_body(const engine::Tokenized& tokenized, bool with_pieces) {
  std::string out = R"({"tokens":)";
  if (!with_pieces) {
    append_ids(out, tokenized.ids);
    return out + "}";
  }
  for (std::size_t i = 0; i < tokenized.ids.size(); ++i) {
    const std::string& piece = tokenized.pieces[i];
    out.append(fmt::format(R"({}{{"id":{},"piece":)", i == 0 ? "[" : ",", tokenized.ids[i]));
    if (utf8::is_valid(piece))
      append_json_string(out, piece);
    else
      out.append(fmt::format(
          "[{}]", fmt::join(std::span(reinterpret_cast<const unsigned char*>(piece.data()), piece.size()), ",")));
    out.push_back('}');
  }
  return out + (tokenized.ids.empty() ? "[]}" : "]}");
}

std::string prompt_body(const engine::Tokenized& tokenized, bool with_strings) {
  std::string out =
      fmt::format(R"({{"count":{},"max_model_len":{},"tokens":)", tokenized.ids.size(), tokenized.context);
  append_ids(out, tokenized.ids);
  out.append(R"(,"token_strs":)");
  if (!with_strings) return out + "null}";
  out.push_back('[');
  for (std::size_t i = 0; i < tokenized.ids.size(); ++i) {
    if (i > 0) out.push_back(',');
    append_token(out, tokenized.ids[i], tokenized.pieces[i], false);
  }
  return out + "]}";
}

// llama.cpp: {content} gives {tokens}, with_pieces each as {id, piece}, where a
// piece that is no whole text is an array of its bytes.
Outcome<Maker> tokenize_content(const std::string& model, Fields& fields) {
  engine::Prompt prompt{.input = std::string(), .add_special_tokens = false};
  bool parse_special = true, with_pieces = false;
  fields.read("content", std::get<std::string>(prompt.input), std::string::npos);
  fields.read("add_special", prompt.add_special_tokens);
  fields.read("parse_special", parse_special);
  fields.read("with_pieces", with_pieces);
  TRY(fields.done());
  return [=](const engine::Generator& generator) -> Result<std::string> {
    return content_body(TRY(generator.tokenize(model, prompt, parse_special)), with_pieces);
  };
}

// vLLM: {prompt} or {messages} gives {count, max_model_len, tokens, token_strs}.
Outcome<Maker> tokenize_prompt(const std::string& model, Fields& fields) {
  engine::Prompt prompt;
  bool with_strings = false;
  if (fields.has("messages")) {
    prompt.input = TRY(read_chat(fields));
  } else {
    std::string text;
    if (!fields.has("prompt")) return bad("prompt", "send 'prompt', 'messages' or 'content'");
    fields.read("prompt", text, std::string::npos);
    fields.read("add_special_tokens", prompt.add_special_tokens);
    prompt.input = std::move(text);
  }
  fields.read("return_token_strs", with_strings);
  TRY(fields.done());
  return [=](const engine::Generator& generator) -> Result<std::string> {
    return prompt_body(TRY(generator.tokenize(model, prompt, true)), with_strings);
  };
}

}  // namespace

Outcome<void> tokenize(Call& call) {
  const engine::Generator& generator = *TRY(call.generator());
  const Json body = TRY(parse_body(call.request()));
  Fields fields(body);
  const auto model = TRY(find_model(call, generator, fields));
  answer(call, generator, model.id,
         TRY(fields.has("content") ? tokenize_content(model.id, fields) : tokenize_prompt(model.id, fields)));
  return {};
}

// vLLM reads `prompt`, llama.cpp `content`: both get theirs.
Outcome<void> detokenize(Call& call) {
  const engine::Generator& generator = *TRY(call.generator());
  const Json body = TRY(parse_body(call.request()));
  Fields fields(body);
  const auto model = TRY(find_model(call, generator, fields));
  std::vector<std::int32_t> ids;
  if (!fields.has("tokens")) return bad("tokens", "'tokens' is missing: send an array of token ids");
  fields.read_ids("tokens", ids, model.vocabulary);
  TRY(fields.done());
  answer(call, generator, model.id, [id = model.id, ids](const engine::Generator& ready) -> Result<std::string> {
    std::string text;
    append_json_string(text, TRY(ready.detokenize(id, ids)));
    return fmt::format(R"({{"prompt":{},"content":{}}})", text, text);
  });
  return {};
}

Outcome<void> apply_template(Call& call) {
  const engine::Generator& generator = *TRY(call.generator());
  const Json body = TRY(parse_body(call.request()));
  Fields fields(body);
  const auto model = TRY(find_model(call, generator, fields));
  const auto chat = TRY(read_chat(fields));
  answer(call, generator, model.id, [id = model.id, chat](const engine::Generator& ready) -> Result<std::string> {
    std::string text;
    append_json_string(text, TRY(ready.render(id, chat)));
    return fmt::format(R"({{"prompt":{}}})", text);
  });
  return {};
}

}  // namespace ashlar::api
