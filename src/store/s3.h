// Amazon's S3 and what speaks like it: signed requests, and what its answers say.
#pragma once

#include <chrono>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/result.h"
#include "net/http_client.h"
#include "store/courier.h"
#include "store/hub.h"

namespace ashlar::store {

struct S3Keys {
  std::string id, secret;
  std::string session;  // "": the keys are not temporary
  std::string region;
  std::string service = "s3";  // another's path is percent-encoded once more in what is signed
};

// Signs `request` as it will be sent (AWS Signature Version 4): adds x-amz-date,
// x-amz-content-sha256 and authorization. The URL's path is percent-encoded
// already.
void sign_s3(net::ClientRequest& request, const S3Keys& keys, std::chrono::system_clock::time_point now);

// A bucket at an endpoint. Any thread.
class S3Bucket {
 public:
  // Without keys its requests are not signed, which public buckets take.
  S3Bucket(const HubSettings& settings, std::string bucket);

  Address address(const std::string& key, const std::string& query = "") const;
  // "https://host" and the bucket, for people.
  const std::string& endpoint() const { return endpoint_; }

 private:
  std::string endpoint_;
  std::string base_;  // the bucket's URL, without a "/" at its end
  std::shared_ptr<const RequestSigner> signer_;
};

// A page of ListObjectsV2. corrupt: not such an answer.
struct S3Page {
  struct Object {
    std::string key;
    std::uint64_t size = 0;
  };
  std::vector<Object> objects;
  std::string next;  // the continuation token; "": this is the last page
};
Result<S3Page> read_s3_page(std::string_view text);

}  // namespace ashlar::store
