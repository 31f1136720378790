#include "text/chat_template.h"

#include <fmt/format.h>

#include "base/json_full.h"
#include "base/utf8.h"
#include "text/jinja/evaluate.h"
#include "text/jinja/parser.h"
#include "text/jinja/scope.h"

namespace ashlar::text {
namespace {

class JinjaTemplate : public ChatTemplate {
 public:
  JinjaTemplate(std::string source, TemplateLimits limits, std::unique_ptr<jinja::Template> parsed)
      : source_(std::move(source)), limits_(limits), parsed_(std::move(parsed)) {}

  Result<std::string> render(const Json& context, std::time_t now) const override {
    jinja::Evaluator evaluator(*parsed_, limits_, now);
    auto text = evaluator.render(context);
    if (!text) {
      return Error{text.error().code, fmt::format("chat template, line {}: {}", evaluator.line, text.error().message)};
    }
    return text;
  }

  const std::string& source() const override { return source_; }

 private:
  const std::string source_;
  const TemplateLimits limits_;
  const std::unique_ptr<const jinja::Template> parsed_;
};

}  // namespace

Result<std::shared_ptr<const ChatTemplate>> ChatTemplate::parse(std::string source, TemplateLimits limits) {
  if (source.size() > limits.source_bytes) {
    return Error{Code::too_large,
                 fmt::format("chat template: {} bytes of source, the limit is {}", source.size(), limits.source_bytes)};
  }
  if (!utf8::is_valid(source)) return Error{Code::invalid, "chat template: the source is not UTF-8"};
  auto parsed = TRY(jinja::parse(source, limits));
  TRY(jinja::resolve(*parsed));
  return std::make_shared<const JinjaTemplate>(std::move(source), limits, std::move(parsed));
}

}  // namespace ashlar::text
