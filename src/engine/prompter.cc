#include "engine/prompter.h"

#include <fmt/format.h>

#include "base/json_full.h"
#include "base/utf8.h"

namespace ashlar::engine {
namespace {

std::string special_text(const text::Tokenizer& tokenizer, text::TokenId id) {
  if (id < 0 || id >= tokenizer.size()) return {};
  return tokenizer.vocabulary().tokens[static_cast<std::size_t>(id)];
}

// The text that the last message ends with.
Result<std::string> last_content(const Json& messages) {
  const Json* content = nullptr;
  if (messages.is_array() && !messages.empty() && messages.back().is_object()) {
    const auto found = messages.back().find("content");
    if (found != messages.back().end()) content = &*found;
  }
  if (content != nullptr && content->is_array() && !content->empty() && content->back().is_object()) {
    const auto found = content->back().find("text");
    content = found != content->back().end() ? &*found : nullptr;
  }
  if (content == nullptr || !content->is_string())
    return Error{Code::invalid, "continue_final_message: the last message has no text to continue"};
  return content->get<std::string>();
}

std::string_view trim(std::string_view text) {
  constexpr std::string_view kSpace = " \t\n\r\f\v";
  const std::size_t first = text.find_first_not_of(kSpace);
  if (first == text.npos) return {};
  return text.substr(first, text.find_last_not_of(kSpace) - first + 1);
}

// Cuts what the template wrote after the last message, so that the model goes on
// with it. Templates may trim the text; then what they kept is the end.
Status cut_after_last(std::string& rendered, const Json& messages) {
  const std::string content = TRY(last_content(messages));
  for (const std::string_view end : {std::string_view(content), trim(content)}) {
    if (end.empty()) continue;
    const std::size_t at = rendered.rfind(end);
    if (at == rendered.npos) continue;
    rendered.resize(at + end.size());
    return {};
  }
  return std::unexpected(
      Error{Code::invalid, "continue_final_message: the chat template does not show the last message's text as it is"});
}

}  // namespace

Prompter::Prompter(std::shared_ptr<const text::Tokenizer> tokenizer,
                   std::shared_ptr<const text::ChatTemplate> chat_template)
    : tokenizer_(std::move(tokenizer)),
      template_(std::move(chat_template)),
      bos_(special_text(*tokenizer_, tokenizer_->vocabulary().bos)),
      eos_(special_text(*tokenizer_, tokenizer_->vocabulary().eos)) {}

Result<std::string> Prompter::render(const Chat& chat, std::time_t now) const {
  if (chat.messages == nullptr) return Error{Code::invalid, "a chat needs messages"};
  if (chat.continue_final_message && chat.add_generation_prompt)
    return Error{Code::invalid, "continue_final_message and add_generation_prompt exclude each other"};
  std::shared_ptr<const text::ChatTemplate> chat_template = template_;
  if (!chat.chat_template.empty()) chat_template = TRY(text::ChatTemplate::parse(chat.chat_template));
  if (chat_template == nullptr)
    return Error{Code::unsupported,
                 "the model has no chat template: send a prompt to /v1/completions, or a chat_template"};
  Json context = {{"messages", *chat.messages},
                  {"tools", chat.tools != nullptr && !chat.tools->empty() ? *chat.tools : Json()},
                  {"add_generation_prompt", chat.add_generation_prompt},
                  {"bos_token", bos_},
                  {"eos_token", eos_}};
  if (chat.template_kwargs != nullptr && chat.template_kwargs->is_object())
    for (const auto& [key, value] : chat.template_kwargs->items())
      if (key != "messages" && key != "tools") context[key] = value;
  std::string rendered = TRY(chat_template->render(context, now));
  if (chat.continue_final_message) TRY(cut_after_last(rendered, *chat.messages));
  return rendered;
}

Result<Prompter::Tokens> Prompter::tokens(const Prompt& prompt, bool parse_special, bool want_text) const {
  Tokens out;
  if (const auto* ids = std::get_if<std::vector<std::int32_t>>(&prompt.input)) {
    for (const std::int32_t id : *ids)
      if (id < 0 || id >= tokenizer_->size())
        return Error{Code::invalid,
                     fmt::format("the prompt has token id {}, but the vocabulary has {}", id, tokenizer_->size())};
    out.ids = *ids;
    if (want_text) out.text = utf8::sanitize(tokenizer_->decode(out.ids, true));
    return out;
  }
  const auto* chat = std::get_if<Chat>(&prompt.input);
  out.text = chat != nullptr ? TRY(render(*chat, std::time(nullptr))) : std::get<std::string>(prompt.input);
  out.ids = tokenizer_->encode(out.text,
                               {.add_special = chat != nullptr ? chat->add_special_tokens : prompt.add_special_tokens,
                                .parse_special = parse_special});
  return out;
}

}  // namespace ashlar::engine
