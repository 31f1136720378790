#include "gateway/upstreams/framing.h"

#include <algorithm>

#include "net/http_text.h"

namespace ashlar::gateway {

Framing::Framing(const net::Headers& headers) {
  const std::string type = net::lower(net::find_header(headers, "content-type"));
  type_ = type.substr(0, std::min<std::size_t>(type.find(';'), 60));
  if (type_ == "text/event-stream" || type_ == "application/x-ndjson") form_ = Form::stream;
}

bool Framing::whole(std::string_view bytes) {
  if (form_ == Form::unknown) {
    const auto first = bytes.find_first_not_of(" \t\r\n");
    if (first == bytes.npos) return true;  // blank so far, which either form may begin with
    // What is neither JSON nor a stream's field or comment is taken whole, and will not parse.
    const std::string_view text = bytes.substr(first);
    const bool field =
        text[0] == ':' || text.starts_with("data") || text.starts_with("event") || text.starts_with("id:");
    form_ = field ? Form::stream : Form::whole;
  }
  if (form_ == Form::whole) body_.append(bytes);
  return form_ == Form::whole;
}

std::optional<std::string_view> Framing::body() const {
  if (form_ == Form::stream) return std::nullopt;
  return body_;
}

std::string Framing::what() const {
  return type_.empty() || type_ == "application/json" ? "no answer" : type_ + " where an answer should be";
}

}  // namespace ashlar::gateway
