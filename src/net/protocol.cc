#include "net/protocol.h"

#include <fmt/format.h>

#include <new>

namespace ashlar::net {

bool BodyBudget::Share::take(std::uint64_t bytes) {
  if (budget_.used_.fetch_add(bytes) + bytes > budget_.most_) {
    budget_.used_ -= bytes;
    return false;
  }
  taken_ += bytes;
  return true;
}

Refusal body_too_large(Bytes most) {
  return {413, fmt::format("The request's body is larger than {} bytes.", most.count)};
}

std::optional<Refusal> Arriving::add(std::string_view bytes, Bytes most) {
  if (request.body.size() + bytes.size() > most.count) return body_too_large(most);
  if (!share.take(bytes.size())) return Refusal{503, "Too many request bodies arrive at once: try again in a moment."};
  try {
    request.body.append(bytes);
  } catch (const std::bad_alloc&) {
    return Refusal{503, "The server has no memory for this request's body: try again in a moment."};
  }
  return std::nullopt;
}

}  // namespace ashlar::net
