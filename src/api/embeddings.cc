// POST /v1/embeddings
#include <fmt/format.h>

#include <bit>
#include <iterator>

#include "api/generation.h"
#include "api/readers.h"
#include "base/base64.h"
#include "base/json_full.h"

namespace ashlar::api {
namespace {

constexpr std::size_t kMaxInputs = 2048;  // of one request

// The elements as little-endian f32, as clients decode them.
void append_vector(std::string& out, std::span<const float> vector, bool base64) {
  if (!base64) {
    out.push_back('[');
    for (std::size_t i = 0; i < vector.size(); ++i)
      fmt::format_to(std::back_inserter(out), "{}{}", i == 0 ? "" : ",", vector[i]);
    out.push_back(']');
    return;
  }
  static_assert(std::endian::native == std::endian::little);
  out.push_back('"');
  append_base64(out, {reinterpret_cast<const unsigned char*>(vector.data()), vector.size_bytes()});
  out.push_back('"');
}

std::string embeddings_json(const std::string& model, const engine::Embeddings& answer, bool base64) {
  std::string out = R"({"object":"list","data":[)";
  const auto dimensions = static_cast<std::size_t>(answer.dimensions);
  for (std::size_t i = 0; i * dimensions < answer.values.size(); ++i) {
    fmt::format_to(std::back_inserter(out), R"({}{{"object":"embedding","index":{},"embedding":)", i == 0 ? "" : ",",
                   i);
    append_vector(out, std::span(answer.values).subspan(i * dimensions, dimensions), base64);
    out.push_back('}');
  }
  out.append(R"(],"model":)");
  append_json_string(out, model);
  fmt::format_to(std::back_inserter(out), R"(,"usage":{{"prompt_tokens":{},"total_tokens":{}}}}})",
                 answer.prompt_tokens, answer.prompt_tokens);
  return out;
}

Outcome<bool> read_encoding(Fields& fields) {
  std::string format = "float";
  fields.read("encoding_format", format, 64);
  TRY(fields.done());
  if (format != "float" && format != "base64")
    return bad("encoding_format", R"('encoding_format' should be "float" or "base64")");
  return format == "base64";
}

}  // namespace

Outcome<void> embeddings(Call& call) {
  const auto arrived = engine::Clock::now();
  const engine::Generator& generator = *TRY(call.generator());
  const Json body = TRY(parse_body(call.request()));
  Fields fields(body);
  const auto model = TRY(find_model(call, generator, fields));
  engine::Embedder* embedder = call.shared.embedder;
  if ((model.embedding == 0 && !model.foreign) || embedder == nullptr)
    return Fault({Code::unsupported, fmt::format("the model '{}' gives no embeddings{}", model.id,
                                                 model.ranks ? ": it ranks texts, at /v1/rerank" : "")},
                 "model");

  auto request = TRY(begin_reading<engine::EmbedRequest>(call, model, fields));
  const bool base64 = TRY(read_encoding(fields));
  fields.read("dimensions", request.dimensions, {1, model.foreign ? 1e6 : static_cast<double>(model.embedding)});
  TRY(fields.done());
  request.inputs = TRY(read_texts(fields, "input", id_limit(model), kMaxInputs));
  for (const engine::TextOrIds& input : request.inputs)
    if (const auto* text = std::get_if<std::string>(&input); text != nullptr && text->empty())
      return bad("input", "'input' holds an empty string");
  const ReadingReply reply(call, request, arrived);
  embedder->embed(std::move(request), [reply, model = model.id, base64](auto answer) {
    // A route is listed, but is for text alone: no embedder knows it.
    if (!answer && answer.error().error.code == Code::not_found)
      answer.error().error = {
          Code::unsupported,
          fmt::format("'{}' gives no embeddings: a route is for text, name a model of an upstream or of this server",
                      model)};
    if (!answer) return reply.refuse(std::move(answer).error(), "input");
    const auto told = engine::Clock::now();
    reply.respond(embeddings_json(model, *answer, base64), answer->asked, told);
  });
  return {};
}

}  // namespace ashlar::api
