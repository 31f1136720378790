#include "store/wire.h"

#include <gtest/gtest.h>

#include "store/courier.h"
#include "store/s3.h"
#include "store/xml.h"

namespace ashlar::store {
namespace {

using namespace std::chrono_literals;

TEST(Wire, ReadsContentRange) {
  const auto range = parse_content_range("bytes 5-9/10");
  ASSERT_TRUE(range);
  EXPECT_EQ(range->first, 5u);
  EXPECT_EQ(range->last, 9u);
  EXPECT_EQ(range->total, 10u);
  EXPECT_TRUE(parse_content_range("bytes */7")->unsatisfied);
  EXPECT_FALSE(parse_content_range("bytes 0-9/*")->total);
  for (const auto bad : {"", "bytes", "bytes 9-5/10", "bytes 0-10/10", "bytes 0-9", "items 0-1/2", "bytes -1-2/3",
                         "bytes 0-9/x", "bytes 0-99999999999999999999/9"})
    EXPECT_FALSE(parse_content_range(bad)) << bad;
}

TEST(Wire, FollowsRedirectsOnlyWhereItIsSafe) {
  EXPECT_EQ(redirect_target("https://a/b/c?d", "/e"), "https://a/e");
  EXPECT_EQ(redirect_target("https://a/b/c?d=/x/", "e"), "https://a/b/e");
  EXPECT_EQ(redirect_target("https://a", "e"), "https://a/e");
  EXPECT_EQ(redirect_target("https://a/b", "//c/d"), "https://c/d");
  EXPECT_EQ(redirect_target("http://a/b", "https://c/d?e=f%20g"), "https://c/d?e=f%20g");
  EXPECT_EQ(redirect_target("http://a/b", "/go?to=http://x/"), "http://a/go?to=http://x/");
  EXPECT_EQ(redirect_target("https://a/b", "http://a/b").error().code, Code::forbidden);
  for (const auto bad : {"", "file:///etc/passwd", "https://user@c/d", "https://c/a b", "ftp://c/"})
    EXPECT_FALSE(redirect_target("https://a/b", bad)) << bad;
}

TEST(Wire, RedirectsLeaveCredentialsBehind) {
  const Address from{.url = "https://hub/a", .headers = {{"authorization", "Bearer secret"}}};
  const auto lead = [&](std::string location) { return *redirected(from, 302, {{"location", location}}); };
  EXPECT_EQ(lead("/b").headers.size(), 1u);
  EXPECT_EQ(lead("https://hub:443/b").headers.size(), 1u);
  EXPECT_TRUE(lead("https://cdn/b").headers.empty());
  EXPECT_TRUE(lead("https://hub:444/b").headers.empty());
  EXPECT_TRUE(lead("https://hub.evil/b").headers.empty());
  EXPECT_TRUE(lead("//evil/b").headers.empty());
}

// The examples of https://docs.aws.amazon.com/AmazonS3/latest/API/sig-v4-header-based-auth.html
TEST(S3, SignsAsPublished) {
  const S3Keys keys{
      .id = "AKIAIOSFODNN7EXAMPLE", .secret = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY", .region = "us-east-1"};
  const auto at = std::chrono::system_clock::from_time_t(1369353600);  // 20130524T000000Z
  const auto signature = [&](net::ClientRequest request) {
    sign_s3(request, keys, at);
    const auto text = std::string(net::find_header(request.headers, "authorization"));
    return text.substr(text.find("Credential="));
  };
  const std::string begin = "Credential=AKIAIOSFODNN7EXAMPLE/20130524/us-east-1/s3/aws4_request,SignedHeaders=";
  const std::string host = "https://examplebucket.s3.amazonaws.com";
  EXPECT_EQ(signature({.url = host + "/test.txt", .headers = {{"range", "bytes=0-9"}, {"user-agent", "x"}}}),
            begin +
                "host;range;x-amz-content-sha256;x-amz-date,Signature="
                "f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41");
  EXPECT_EQ(
      signature({.method = "PUT",
                 .url = host + "/test%24file.text",
                 .headers = {{"date", "Fri, 24 May 2013 00:00:00 GMT"}, {"x-amz-storage-class", "REDUCED_REDUNDANCY"}},
                 .body = "Welcome to Amazon S3."}),
      begin +
          "date;host;x-amz-content-sha256;x-amz-date;x-amz-storage-class,Signature="
          "98ad721746da40c64f1a55b78f14c238d841ea1380cd77a1b5971af0ece108bd");
  EXPECT_EQ(signature({.url = host + "/?lifecycle"}),
            begin +
                "host;x-amz-content-sha256;x-amz-date,Signature="
                "fea454ca298b7da1c68078a5d1bdbfbbe0d65c699e0f91ac7a200a0136783543");
  EXPECT_EQ(signature({.url = host + "/?max-keys=2&prefix=J"}),
            begin +
                "host;x-amz-content-sha256;x-amz-date,Signature="
                "34b48302e7b5fa45bde8084f4b7868a86f0a534bc59db6670ed5711ef69dc6f7");
}

// What AWS's own signer (its SDK for JavaScript) computes for these.
TEST(S3, SignsAsAmazonsClientsDo) {
  S3Keys keys{
      .id = "AKIAIOSFODNN7EXAMPLE", .secret = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY", .region = "us-east-1"};
  const auto at = std::chrono::system_clock::from_time_t(1767323045);  // 20260102T030405Z
  const auto signature = [&](const std::string& target, const std::string& body) {
    net::ClientRequest request{.method = "POST",
                               .url = "https://h.example" + target,
                               .headers = {{"content-type", "application/json"}},
                               .body = body};
    sign_s3(request, keys, at);
    const auto text = std::string(net::find_header(request.headers, "authorization"));
    return text.substr(text.find("Signature=") + 10);
  };
  EXPECT_EQ(signature("/bucket/with%20space/%C3%BCn%C3%AF%2B100%25~.gguf"
                      "?uploads=&prefix=a%20b%2Bc%2F%C3%BC&list-type=2",
                      "x"),
            "159e971ea4cd6e1d71fec16a31911253532f76eb4d2533c289751266f35bdebc");
  keys.service = "bedrock";
  const std::string path = "/model/anthropic.claude-v2%3A1/converse";
  EXPECT_EQ(signature(path, "{}"), "786fa5806decb261f16312d0d9aa0456d6cdeedcd735828151ab5460528f803f");
  keys.session = "token==";
  EXPECT_EQ(signature(path, "{}"), "5fee8999713ba90ba67cd7cf30fb42ce3897e509a8357cde810fe5ca84110f07");
}

TEST(S3, ReadsLists) {
  const auto page = read_s3_page(R"(<?xml version="1.0" encoding="UTF-8"?>
<ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/"><Name>b</Name><Prefix>p/</Prefix><KeyCount>2</KeyCount>
<IsTruncated>true</IsTruncated><NextContinuationToken>1ueGcxLPRx1Tr/XYExHnhbYLgveDs2J/wm36Hy4vbOwM=</NextContinuationToken>
<Contents><Key>p/a&amp;b&#x20;c.gguf</Key><LastModified>2026-01-01T00:00:00.000Z</LastModified><ETag>&quot;x&quot;</ETag><Size>434234</Size></Contents>
<Contents><Key>p/</Key><Size>0</Size><Owner/></Contents></ListBucketResult>)");
  ASSERT_TRUE(page) << page.error().message;
  ASSERT_EQ(page->objects.size(), 2u);
  EXPECT_EQ(page->objects[0].key, "p/a&b c.gguf");
  EXPECT_EQ(page->objects[0].size, 434234u);
  EXPECT_EQ(page->next, "1ueGcxLPRx1Tr/XYExHnhbYLgveDs2J/wm36Hy4vbOwM=");
}

TEST(Xml, RefusesWhatS3NeverSends) {
  for (const std::string bad :
       {"", "text", "<a>", "<a></b>", "<a/><b/>", "</a>", "<a>&x;</a>", "<a>&#0;</a>", "<a>&#xD800;</a>", "<a>&amp</a>",
        "<!DOCTYPE a><a/>", "<a><![CDATA[x]]></a>", "<a", "<!-- <a/>", "<?xml", "< a/>", "<a/>x"})
    EXPECT_FALSE(parse_xml(bad)) << bad;
  std::string deep;
  for (int i = 0; i < 1000; ++i) deep += "<a>";
  EXPECT_EQ(parse_xml(deep).error().code, Code::too_large);
  std::string many = "<a>";
  for (int i = 0; i < 60'000; ++i) many += "<b/>";
  EXPECT_EQ(parse_xml(many + "</a>").error().code, Code::too_large);
}

}  // namespace
}  // namespace ashlar::store
