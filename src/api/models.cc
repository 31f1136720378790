// GET /v1/models, GET /v1/models/{id}
#include <fmt/format.h>

#include <algorithm>

#include "api/routes.h"
#include "base/json.h"

namespace ashlar::api {
namespace {

// OpenAI's members, then vLLM's (root, parent, max_model_len), then llama.cpp's (meta).
std::string card_json(const engine::ModelCard& card) {
  std::string id, owner, root, parent;
  append_json_string(owner, card.owner.empty() ? "ashlar" : card.owner);
  append_json_string(id, card.id);
  append_json_string(root, card.root.empty() ? card.id : card.root);
  if (!card.parent.empty())
    append_json_string(parent, card.parent);
  else
    parent = "null";
  return fmt::format(
      R"({{"id":{},"object":"model","created":{},"owned_by":{},"root":{},"parent":{},"max_model_len":{},)"
      R"("meta":{{"n_ctx_train":{},"n_params":{},"size":{},"n_vocab":{},"has_chat_template":{},"generates":{},)"
      R"("n_embd":{},"ranks":{}}}}})",
      id, card.created, owner, root, parent, card.context, card.context, card.parameters, card.bytes, card.vocabulary,
      card.has_chat_template, card.generates, card.embedding, card.ranks);
}

}  // namespace

Outcome<void> list_models(Call& call) {
  std::string out = R"({"object":"list","data":[)";
  const engine::Generator& generator = *TRY(call.generator());
  bool first = true;
  for (const auto& card : generator.models()) {
    if (!call.may_use(card)) continue;
    if (!std::exchange(first, false)) out.push_back(',');
    out.append(card_json(card));
  }
  call.respond_json(out + "]}");
  return {};
}

Outcome<void> show_model(Call& call) {
  const engine::Generator& generator = *TRY(call.generator());
  const auto models = generator.models();
  const auto found = std::ranges::find(models, call.rest, &engine::ModelCard::id);
  if (found == models.end() || !call.may_use(*found))
    return Fault(
        {Code::not_found, fmt::format("the model '{}' does not exist; GET /v1/models lists those served", call.rest)},
        "model", "model_not_found");
  call.respond_json(card_json(*found));
  return {};
}

}  // namespace ashlar::api
