#include "gateway/upstreams/upstreams.h"

#include <algorithm>
#include <condition_variable>
#include <mutex>
#include <utility>

#include "gateway/upstreams/wire.h"
#include "store/digest.h"

namespace ashlar::gateway {
namespace {

// Until each has been probed once.
void wait_for(const std::vector<Upstream*>& upstreams, std::chrono::milliseconds patience) {
  struct Count {
    std::mutex mutex;
    std::condition_variable changed;
    std::size_t left;  // GUARDED_BY(mutex)
  };
  const auto count = std::make_shared<Count>();  // a late probe tells after we have gone on
  count->left = upstreams.size();
  for (Upstream* upstream : upstreams)
    upstream->when_probed([count] {
      const std::lock_guard lock(count->mutex);
      --count->left;
      count->changed.notify_all();
    });
  std::unique_lock lock(count->mutex);
  count->changed.wait_for(lock, patience, [&] { return count->left == 0; });
}

std::string fingerprint(const UpstreamSecrets& secrets) {
  std::string all;
  for (const std::string* each : {&secrets.api_key, &secrets.access_key, &secrets.secret_key, &secrets.session_token})
    all += store::sha256(*each);
  return store::sha256(all);
}

}  // namespace

Result<std::vector<KeptUpstream>> open_upstreams(std::vector<UpstreamOptions> options,
                                                 const std::vector<KeptUpstream>& before,
                                                 std::chrono::milliseconds patience) {
  std::vector<KeptUpstream> out;
  std::vector<Upstream*> fresh;
  for (UpstreamOptions& each : options) {
    const std::string secrets = fingerprint(TRY(read_secrets(each)));
    const auto known = std::ranges::find_if(
        before, [&](const KeptUpstream& old) { return old.options == each && old.secrets == secrets; });
    if (known != before.end()) {
      out.push_back(*known);
      continue;
    }
    std::shared_ptr<Upstream> made = TRY(Upstream::create(each));
    fresh.push_back(made.get());
    out.push_back({.options = std::move(each), .secrets = secrets, .upstream = std::move(made)});
  }
  wait_for(fresh, patience);
  return out;
}

}  // namespace ashlar::gateway
