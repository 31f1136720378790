#include "engine/read_text.h"

#include <fmt/format.h>

#include <algorithm>

namespace ashlar::engine {

int TextTokens::most(int truncate) const {
  return truncate < 0 ? -1 : truncate == 0 ? context_ : std::min(truncate, context_);
}

Status TextTokens::check(const ReadText& text, std::string_view what) const {
  if (text.ids.empty()) return Error{Code::invalid, fmt::format("{} {} has no tokens", what, text.index)};
  if (text.ids.size() <= static_cast<std::size_t>(context_)) return {};
  return Error{Code::too_large, fmt::format("{} {} has {} tokens, but the model reads at most {}", what, text.index,
                                            text.ids.size(), context_)};
}

Result<ReadText> TextTokens::text(const EmbedRequest& request, std::size_t index) const {
  ReadText text{.index = index};
  const TextOrIds& input = request.inputs[index];
  if (const auto* ids = std::get_if<std::vector<std::int32_t>>(&input)) {
    for (const std::int32_t id : *ids)
      if (id < 0 || id >= tokenizer_->size())
        return Error{Code::invalid,
                     fmt::format("input {} has token id {}, but the vocabulary has {}", index, id, tokenizer_->size())};
    text.ids = *ids;
  } else {
    text.ids = tokenizer_->encode(std::get<std::string>(input), {.add_special = true, .parse_special = true});
  }
  if (const int kept = most(request.truncate); kept >= 0 && text.ids.size() > static_cast<std::size_t>(kept)) {
    const std::int32_t last = text.ids.back();
    text.ids.resize(static_cast<std::size_t>(kept));
    if (tokenizer_->is_control(last)) text.ids.back() = last;  // what the model wants behind a text stays
  }
  TRY(check(text, "input"));
  return text;
}

Result<ReadText> TextTokens::pair(const RerankRequest& request, std::size_t index) const {
  CHECK(pair_form_.has_value(), "who reads pairs knows how they are written");
  auto pair =
      pair_form_->write(request.query, request.documents[index], request.document_tokens, most(request.truncate));
  ReadText text{.index = index, .ids = std::move(pair.ids), .types = std::move(pair.types), .cut = pair.cut};
  TRY(check(text, "the query with document"));
  return text;
}

}  // namespace ashlar::engine
