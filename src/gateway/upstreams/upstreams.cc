#include "gateway/upstreams/upstreams.h"

#include <condition_variable>
#include <mutex>
#include <utility>

namespace ashlar::gateway {

Result<std::unique_ptr<Upstreams>> Upstreams::open(std::vector<UpstreamOptions> options, std::chrono::milliseconds patience) {
  auto fleet = std::make_unique<Upstreams>();
  for (UpstreamOptions& each : options) fleet->upstreams_.push_back(TRY(Upstream::create(std::move(each))));

  struct Count {
    std::mutex mutex;
    std::condition_variable changed;
    std::size_t left;  // GUARDED_BY(mutex)
  };
  const auto count = std::make_shared<Count>();  // a late probe tells after we have gone on
  count->left = fleet->upstreams_.size();
  for (const auto& upstream : fleet->upstreams_)
    upstream->when_probed([count] {
      const std::lock_guard lock(count->mutex);
      --count->left;
      count->changed.notify_all();
    });
  std::unique_lock lock(count->mutex);
  count->changed.wait_for(lock, patience, [&] { return count->left == 0; });
  return fleet;
}

std::vector<Upstream*> Upstreams::upstreams() const {
  std::vector<Upstream*> out;
  for (const auto& each : upstreams_) out.push_back(each.get());
  return out;
}

}  // namespace ashlar::gateway
