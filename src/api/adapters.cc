// POST /v1/load_lora_adapter and /v1/unload_lora_adapter, as vLLM has them.
#include <fmt/format.h>

#include <algorithm>
#include <filesystem>

#include "api/generation.h"
#include "api/routes.h"
#include "base/json_full.h"

namespace ashlar::api {
namespace {

constexpr std::size_t kMaxPath = 4096, kMaxName = 256;

// The path that a client named, if it may load from there: from the server's folder of adapters, or, where there are
// no keys and so only this machine's own users, from anywhere.
Outcome<std::string> allowed_path(const Call& call, const std::string& asked) {
  const std::string& folder = call.shared.adapter_folder;
  if (folder.empty() && call.tenant.empty()) return asked;
  if (folder.empty())
    return Fault(Error{Code::forbidden,
                       "adapters are not loaded for clients here: the server was started without "
                       "--adapter-folder"});
  std::error_code failed;
  const std::filesystem::path root = std::filesystem::weakly_canonical(folder, failed);
  const std::filesystem::path path = std::filesystem::weakly_canonical(root / asked, failed);  // symlinks followed
  const auto inside = std::ranges::mismatch(root, path).in1 == root.end();
  if (failed || !inside)
    return Fault(Error{Code::forbidden, "'lora_path' is outside of the server's --adapter-folder"});
  return path.string();
}

net::Headers plain_text() { return {{"content-type", "text/plain; charset=utf-8"}}; }

}  // namespace

// The answer comes when the adapter is loaded; meanwhile everything goes on.
Outcome<void> load_adapter(Call& call) {
  engine::Generator& generator = *TRY(call.generator());
  const Json body = TRY(parse_body(call.request()));
  Fields fields(body);
  engine::AdapterOrder order;
  fields.read("lora_name", order.name, kMaxName);
  fields.read("lora_path", order.path, kMaxPath);
  fields.read("model", order.model, 1024);
  fields.read("load_inplace", order.replace);
  TRY(fields.done());
  if (order.name.empty()) return bad("lora_name", "'lora_name' is missing");
  if (order.path.empty()) return bad("lora_path", "'lora_path' is missing");
  order.path = TRY(allowed_path(call, order.path));
  const std::string name = order.name;
  generator.load_adapter(std::move(order), [exchange = call.exchange, name](const Status& loaded) {
    if (!loaded) return respond_fault(*exchange, Fault(loaded.error(), "lora_path"));
    exchange->respond(200, plain_text(), fmt::format("Success: LoRA adapter '{}' added successfully.", name));
  });
  return {};
}

Outcome<void> unload_adapter(Call& call) {
  engine::Generator& generator = *TRY(call.generator());
  const Json body = TRY(parse_body(call.request()));
  Fields fields(body);
  std::string name;
  fields.read("lora_name", name, kMaxName);
  TRY(fields.done());
  if (name.empty()) return bad("lora_name", "'lora_name' is missing");
  if (const Status removed = generator.unload_adapter(name); !removed) return Fault(removed.error(), "lora_name");
  call.exchange->respond(200, plain_text(), fmt::format("Success: LoRA adapter '{}' removed successfully.", name));
  return {};
}

}  // namespace ashlar::api
