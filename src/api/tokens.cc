// POST /tokenize, /detokenize, /apply-template, in the shapes of vLLM and llama.cpp.
#include <fmt/format.h>

#include "api/dialect.h"
#include "api/generation.h"
#include "api/messages.h"
#include "api/routes.h"
#include "base/json_full.h"
#include "base/utf8.h"

namespace ashlar::api {
namespace {

// llama.cpp: {content} gives {tokens}, with_pieces each as {id, piece}, where a
// piece that is no whole text is an array of its bytes.
Outcome<std::string> tokenize_content(const engine::Generator& generator, const std::string& model, Fields& fields) {
  engine::Prompt prompt{.input = std::string(), .add_special_tokens = false};
  bool parse_special = true, with_pieces = false;
  fields.read("content", std::get<std::string>(prompt.input), std::string::npos);
  fields.read("add_special", prompt.add_special_tokens);
  fields.read("parse_special", parse_special);
  fields.read("with_pieces", with_pieces);
  TRY(fields.done());
  const auto tokenized = TRY(generator.tokenize(model, prompt, parse_special));
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

// vLLM: {prompt} or {messages} gives {count, max_model_len, tokens, token_strs}.
Outcome<std::string> tokenize_prompt(const engine::Generator& generator, const std::string& model, Fields& fields) {
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
  const auto tokenized = TRY(generator.tokenize(model, prompt, true));
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

}  // namespace

Outcome<void> tokenize(Call& call) {
  const engine::Generator& generator = *TRY(call.generator());
  const Json body = TRY(parse_body(call.request().body));
  Fields fields(body);
  const auto model = TRY(find_model(call, generator, fields));
  call.respond_json(TRY(fields.has("content") ? tokenize_content(generator, model.id, fields)
                                              : tokenize_prompt(generator, model.id, fields)));
  return {};
}

// vLLM reads `prompt`, llama.cpp `content`: both get theirs.
Outcome<void> detokenize(Call& call) {
  const engine::Generator& generator = *TRY(call.generator());
  const Json body = TRY(parse_body(call.request().body));
  Fields fields(body);
  const auto model = TRY(find_model(call, generator, fields));
  std::vector<std::int32_t> ids;
  if (!fields.has("tokens")) return bad("tokens", "'tokens' is missing: send an array of token ids");
  fields.read_ids("tokens", ids, model.vocabulary);
  TRY(fields.done());
  std::string text;
  append_json_string(text, TRY(generator.detokenize(model.id, ids)));
  call.respond_json(fmt::format(R"({{"prompt":{},"content":{}}})", text, text));
  return {};
}

Outcome<void> apply_template(Call& call) {
  const engine::Generator& generator = *TRY(call.generator());
  const Json body = TRY(parse_body(call.request().body));
  Fields fields(body);
  const auto model = TRY(find_model(call, generator, fields));
  const auto chat = TRY(read_chat(fields));
  std::string text;
  append_json_string(text, TRY(generator.render(model.id, chat)));
  call.respond_json(fmt::format(R"({{"prompt":{}}})", text));
  return {};
}

}  // namespace ashlar::api
