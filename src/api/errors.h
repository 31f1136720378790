// What a client is told when something is wrong: one table from our codes to
// HTTP, one shape of body ({"error":{"message","type","param","code"}}).
#pragma once

#include <chrono>
#include <expected>
#include <string>
#include <string_view>
#include <utility>

#include "base/result.h"
#include "engine/generator.h"
#include "net/http.h"

namespace ashlar::api {

// An Error with what only the HTTP answer needs.
struct [[nodiscard]] Fault {
  Error error;
  std::string param;   // the field at fault; "": none
  std::string reason;  // OpenAI's `code`; "": what the table says
  std::chrono::milliseconds retry_after{0};
  int status = 0;  // 0: what the table says
  engine::Dropped dropped = engine::Dropped::no;

  Fault(Error e, std::string at = {}, std::string why = {})
      : error(std::move(e)), param(std::move(at)), reason(std::move(why)) {}

  // So that a function may simply `return Fault{...}`.
  template <class T>
  operator std::expected<T, Fault>() && {
    return std::unexpected(std::move(*this));
  }
};

template <class T>
using Outcome = std::expected<T, Fault>;

// `prompt` names the member that is too long where the context is over.
Fault fault_of(engine::Failed failure, std::string_view prompt);

// The input is wrong, at `param`.
Fault bad(std::string param, std::string message);
// Understood, but not something that is served today.
Fault not_yet(std::string param, std::string_view what);

int status_of(const Fault& fault);
// {"error":{...}}, the same as a body and within a stream.
std::string error_json(const Fault& fault);
// The whole answer, with Retry-After where waiting helps (and x-should-retry: false where clients would not wait so
// long), and x-ashlar-dropped-reason where there was no room.
void respond_fault(net::Exchange& exchange, const Fault& fault, net::Headers headers = {});

}  // namespace ashlar::api
