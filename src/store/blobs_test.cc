// One suite for both twins of the cold tier.
#include "store/blobs.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "store/fakes_for_test.h"

namespace ashlar::store {
namespace {

using testing::HasSubstr;

// Objects in memory, behind as much of S3 as we speak; only signed requests.
class FakeS3 {
 public:
  std::map<std::string, std::string> objects;
  std::map<int, std::string> parts;
  std::atomic<int> fail_part = 0;  // refused once, as a busy server does
  bool fail_join = false;
  std::string region;  // another than it is asked in
  std::mutex mutex;

  FakeServer server{[this](const FakeRequest& request) -> FakeAnswer {
    const std::lock_guard lock(mutex);
    if (!region.empty()) return {.status = 301, .headers = {{"x-amz-bucket-region", region}}};
    if (!request.header("authorization").starts_with("AWS4-HMAC-SHA256 Credential=id/") ||
        request.header("x-amz-content-sha256") != hex_of(request.body))
      return refusal(request, 403, "InvalidAccessKeyId", "The key does not exist in our records.");
    if (!request.target.starts_with("/bucket/"))
      return refusal(request, 404, "NoSuchBucket", "The bucket &lt;there&gt; does not exist");
    const std::string key = request.target.substr(0, request.target.find('?'));
    const std::string query = request.target.substr(std::min(request.target.size(), key.size() + 1));
    if (request.method == "POST" && query == "uploads=")
      return {.body = "<InitiateMultipartUploadResult><UploadId>up/1</UploadId></InitiateMultipartUploadResult>"};
    if (request.method == "PUT" && query.starts_with("partNumber=")) {
      const int number = std::atoi(query.c_str() + 11);
      if (fail_part == number) {
        fail_part = 0;
        return {.status = 503};
      }
      EXPECT_TRUE(query.ends_with("&uploadId=up%2F1")) << query;
      parts[number] = request.body;
      return {.headers = {{"etag", fmt::format("\"part{}\"", number)}}};
    }
    if (request.method == "POST") {
      if (fail_join) return {.body = "<Error><Code>InternalError</Code></Error>"};
      for (const auto& [number, body] : parts) objects[key] += body;
      EXPECT_NE(request.body.find("<Part><PartNumber>1</PartNumber><ETag>&quot;part1&quot;</ETag></Part>"),
                std::string::npos);
      return {.body = "<CompleteMultipartUploadResult><ETag>x</ETag></CompleteMultipartUploadResult>"};
    }
    if (request.method == "DELETE") {
      if (query.empty())
        objects.erase(key);
      else
        parts.clear();
      return {.status = 204};
    }
    if (request.method == "PUT") {
      objects[key] = request.body;
      return {};
    }
    const auto found = objects.find(key);
    return found == objects.end() ? FakeAnswer{.status = 404} : give_file(request, found->second);
  }};

 private:
  static FakeAnswer refusal(const FakeRequest& request, int status, const char* code, const char* message) {
    if (request.method == "HEAD") return {.status = status};
    return {.status = status,
            .body = fmt::format("<?xml version=\"1.0\"?>\n<Error><Code>{}</Code><Message>{}</Message></Error>", code,
                                message)};
  }
};

// Another's server, where somebody has one: s3://BUCKET/PREFIX, and AWS's own variables.
const char* others_s3() { return std::getenv("ASHLAR_TEST_S3"); }

enum class Twin { folder, s3, others_s3 };

class BlobsTest : public testing::TestWithParam<Twin> {
 protected:
  BlobsTest()
      : settings{.s3_endpoint = s3.server.url(), .s3_key_id = "id", .s3_secret = "secret"},
        courier(std::move(*Courier::create(quick()))) {
    if (GetParam() == Twin::others_s3) settings = hub_settings_from_environment();
  }
  void SetUp() override {
    if (GetParam() == Twin::others_s3 && others_s3() == nullptr) GTEST_SKIP() << "ASHLAR_TEST_S3 names no bucket";
    blobs = at(GetParam() == Twin::folder ? folder / "cold"
               : GetParam() == Twin::s3   ? "s3://bucket/models"
                                          : others_s3());
  }
  std::unique_ptr<Blobs> at(const std::string& where) {
    return std::move(*open_blobs(where, *courier, settings, {.piece = 64 << 10, .small = 1000}));
  }
  std::string file(const std::string& bytes) const {
    const std::string path = folder / "file";
    std::ofstream(path, std::ios::binary) << bytes;
    return path;
  }

  static Status nothing() { return {}; }
  FakeS3 s3;
  TemporaryFolder folder;
  HubSettings settings;
  std::unique_ptr<Courier> courier;
  std::unique_ptr<Blobs> blobs;
};

TEST_P(BlobsTest, KeepAndGiveBack) {
  std::vector<std::string> all{"", "short", gguf_bytes(300'000)};
  if (GetParam() == Twin::others_s3) all.push_back(gguf_bytes((32 << 20) + 1000));  // in parts
  for (const std::string& bytes : all) {
    const std::string digest = hex_of(bytes);
    EXPECT_EQ(blobs->size(digest, nothing), std::nullopt);
    const auto put = blobs->put(digest, file(bytes), nothing);
    ASSERT_TRUE(put) << put.error().message;
    EXPECT_EQ(blobs->size(digest, nothing), bytes.size());
    PartFile part = *PartFile::open(folder / "part", nothing);
    const auto got = blobs->get(digest, bytes.size(), part, [](const DownloadProgress&) { return Status(); });
    ASSERT_TRUE(got) << got.error().message;
    EXPECT_EQ(contents(folder / "part"), bytes);
    ASSERT_TRUE(blobs->remove(digest, nothing));
    EXPECT_EQ(blobs->size(digest, nothing), std::nullopt);
  }
  EXPECT_FALSE(blobs->put(hex_of("x"), folder / "missing", nothing));
}

TEST_P(BlobsTest, WhatIsNotThereIsMissingOrGoneAlready) {
  const std::string digest = hex_of("nobody has it");
  EXPECT_EQ(blobs->size(digest, nothing), std::nullopt);
  PartFile part = *PartFile::open(folder / "part", nothing);
  EXPECT_FALSE(blobs->get(digest, 10, part, [](const DownloadProgress&) { return Status(); }));
  EXPECT_TRUE(blobs->remove(digest, nothing));
}

INSTANTIATE_TEST_SUITE_P(Twins, BlobsTest, testing::Values(Twin::folder, Twin::s3, Twin::others_s3),
                         [](const auto& tested) {
                           return tested.param == Twin::folder ? "Folder"
                                  : tested.param == Twin::s3   ? "S3"
                                                               : "OthersS3";
                         });

using S3BlobsTest = BlobsTest;
TEST_P(S3BlobsTest, LargeFilesGoInParts) {
  const std::string bytes = gguf_bytes((32 << 20) + 1000);
  s3.fail_part = 2;
  const auto put = blobs->put(hex_of(bytes), file(bytes), nothing);
  ASSERT_TRUE(put) << put.error().message;
  EXPECT_TRUE(s3.objects["/bucket/models/blobs/sha256-" + hex_of(bytes)] == bytes);
  s3.objects.clear();
  s3.fail_join = true;
  EXPECT_FALSE(blobs->put(hex_of(bytes), file(bytes), nothing));
  EXPECT_TRUE(s3.parts.empty());  // the upload was given up
}

TEST_P(S3BlobsTest, ARefusalSaysWhatTheServerSaid) {
  const std::string digest = hex_of("x"), path = file("x");
  const auto missing = at("s3://nothere/models")->put(digest, path, nothing);
  ASSERT_FALSE(missing);
  EXPECT_THAT(missing.error().message, HasSubstr("NoSuchBucket: The bucket <there> does not exist"));
  settings.s3_key_id = "other";
  const auto wrong = at("s3://bucket/models");
  const auto put = wrong->put(digest, path, nothing);
  ASSERT_FALSE(put);
  EXPECT_EQ(put.error().code, Code::forbidden);
  EXPECT_THAT(put.error().message, HasSubstr("InvalidAccessKeyId: The key does not exist in our records."));
  const auto size = wrong->size(digest, nothing);
  ASSERT_FALSE(size);
  EXPECT_THAT(size.error().message, HasSubstr("AWS_ACCESS_KEY_ID")) << "an answer to HEAD has no words";
  s3.region = "eu-west-1";
  const auto elsewhere = blobs->size(digest, nothing);
  ASSERT_FALSE(elsewhere);
  EXPECT_THAT(elsewhere.error().message, HasSubstr("the bucket is in the region 'eu-west-1': set AWS_REGION"));
}
INSTANTIATE_TEST_SUITE_P(S3, S3BlobsTest, testing::Values(Twin::s3));

TEST(Blobs, WantAnAddress) {
  const auto courier = std::move(*Courier::create({.offline = true}));
  const HubSettings settings;
  for (const std::string bad : {"s3://", "s3://b/../c", "https://host/x", "s3://-/a"})
    EXPECT_FALSE(open_blobs(bad, *courier, settings, {})) << bad;
}

}  // namespace
}  // namespace ashlar::store
