#include "store/model_store.h"

#include <fmt/ranges.h>
#include <gmock/gmock.h>

#include "base/json_full.h"
#include "store/fakes_for_test.h"

namespace ashlar::store {
namespace {

namespace fs = std::filesystem;
using testing::HasSubstr;
using testing::Not;

constexpr const char* kCommit = "0123456789abcdef0123456789abcdef01234567";

// Hugging Face with its content network, which is another server.
class FakeHuggingFace {
 public:
  explicit FakeHuggingFace(std::map<std::string, std::string> its_files) : files(std::move(its_files)) {}

  std::map<std::string, std::string> files;
  std::set<std::string> small;                // not in large-file storage: git's sha1 is all that is told
  std::map<std::string, std::string> listed;  // another content that the listing tells of
  std::function<std::optional<FakeAnswer>(const FakeRequest&, const std::string& body)> on_cdn;
  std::string token;  // without it: 401
  std::mutex mutex;

  FakeServer cdn{[this](const FakeRequest& request) {
    const std::string body = files.at(request.target.substr(6, request.target.find('?') - 6));
    if (on_cdn)
      if (auto answer = on_cdn(request, body)) return *answer;
    return give_file(request, body, "\"" + hex_of(body).substr(0, 32) + "\"");
  }};
  FakeServer hub{[this](const FakeRequest& request) -> FakeAnswer {
    if (!token.empty() && request.header("authorization") != "Bearer " + token)
      return {
          .status = 401,
          .headers = {{"x-error-code", "GatedRepo"}, {"x-error-message", "Access to model acme/tiny is restricted."}}};
    if (request.target.starts_with("/api/models/acme/tiny/revision/")) return {.body = listing()};
    const std::string resolve = std::string("/acme/tiny/resolve/") + kCommit + "/";
    if (!request.target.starts_with(resolve)) return {.status = 404, .headers = {{"x-error-code", "RepoNotFound"}}};
    const std::string name = request.target.substr(resolve.size());
    if (small.contains(name)) return give_file(request, files.at(name), "\"" + git_hex_of(files.at(name)) + "\"");
    const std::string& told = listed.contains(name) ? listed[name] : files.at(name);
    return {.status = 302,
            .headers = {{"location", cdn.url("/blob/" + name + "?X-Amz-Signature=secret")},
                        {"x-linked-etag", "\"" + hex_of(told) + "\""},
                        {"x-linked-size", std::to_string(told.size())},
                        {"x-repo-commit", kCommit}}};
  }};

  std::string listing() {
    Json siblings = Json::array();
    for (const auto& [name, body] : files) {
      const std::string& told = listed.contains(name) ? listed[name] : body;
      Json each = {{"rfilename", name}, {"size", told.size()}, {"blobId", git_hex_of(told)}};
      if (!small.contains(name)) each["lfs"] = {{"sha256", hex_of(told)}, {"size", told.size()}, {"pointerSize", 135}};
      siblings.push_back(each);
    }
    return dump_json({{"_id", "x"},
                      {"id", "acme/tiny"},
                      {"sha", kCommit},
                      {"private", false},
                      {"gated", false},
                      {"tags", {"gguf", "license:apache-2.0"}},
                      {"cardData", {{"license", "apache-2.0"}}},
                      {"siblings", siblings}});
  }
};

class ModelStoreTest : public testing::Test {
 protected:
  std::unique_ptr<ModelStore> open(HubSettings hubs, bool offline = false) {
    auto store = ModelStore::open({.options = {.store = folder / "store", .offline = offline, .pull_connections = 4},
                                   .hubs = std::move(hubs),
                                   .courier = quick(),
                                   .download = {.piece = 64 << 10, .small = 8 << 10}});
    EXPECT_TRUE(store) << store.error().message;
    return std::move(*store);
  }
  std::unique_ptr<ModelStore> open(const FakeHuggingFace& hub, bool offline = false) {
    return open({.hf_endpoint = hub.hub.url(), .hf_token = hub.token}, offline);
  }
  static Result<Manifest> pull(ModelStore& store, const std::string& what, std::string alias = "") {
    auto reference = parse_reference(what);
    if (!reference) return reference.error();
    return store.pull({.reference = *reference, .alias = std::move(alias)}, unwatched);
  }
  std::vector<std::string> names(const std::string& room) const {
    std::vector<std::string> out;
    std::error_code failed;
    for (const auto& entry : fs::directory_iterator(folder / ("store/" + room), failed))
      out.push_back(entry.path().filename().string());
    return out;
  }

  TemporaryFolder folder;
};

TEST_F(ModelStoreTest, PullsOneFileInRangesAndFindsItByItsNames) {
  const std::string model = gguf_bytes(1'000'000), other = gguf_bytes(1000, 2);
  FakeHuggingFace hub({{"tiny-Q4_K_M.gguf", model}, {"tiny-Q8_0.gguf", other}, {"README.md", "# tiny"}});
  hub.token = "hf_secret";
  const auto store = open(hub);
  const auto pulled = pull(*store, "hf:acme/tiny:Q4_K_M");
  ASSERT_TRUE(pulled) << pulled.error().message;
  EXPECT_EQ(pulled->licence, "apache-2.0");
  EXPECT_EQ(pulled->version, kCommit);
  ASSERT_EQ(pulled->files.size(), 1u);
  EXPECT_EQ(pulled->files[0].sha256, hex_of(model));
  EXPECT_EQ(pulled->files[0].checked_by, "sha256");
  EXPECT_GE(hub.cdn.count("/blob/"), 16u);  // a megabyte in pieces of 64 KiB
  for (const auto& request : hub.cdn.requests()) EXPECT_EQ(request.header("authorization"), "");
  for (const auto& request : hub.hub.requests()) EXPECT_EQ(request.header("authorization"), "Bearer hf_secret");
  EXPECT_EQ(hub.hub.count("/resolve/"), 1u);  // the redirect is remembered

  for (const std::string name :
       {"hf:acme/tiny:Q4_K_M", "acme/tiny:Q4_K_M", "acme/tiny", "tiny", "tiny-q4_k_m", "tiny-Q4_K_M.gguf"}) {
    const auto found = store->ready(name, unwatched);
    ASSERT_TRUE(found) << name << ": " << found.error().message;
    EXPECT_TRUE(found->path.ends_with("/tiny-Q4_K_M.gguf"));
    EXPECT_EQ(contents(found->path), model);
  }
  // Again: nothing comes that is here.
  const auto before = hub.cdn.requests().size();
  ASSERT_TRUE(pull(*store, "hf:acme/tiny:Q4_K_M", "pet"));
  EXPECT_EQ(hub.cdn.requests().size(), before);
  EXPECT_TRUE(store->find("pet"));
  EXPECT_THAT(dump_json(manifest_json(*store->find("pet"))), Not(HasSubstr("secret")));
}

TEST_F(ModelStoreTest, PullsAFolderWithoutItsPickles) {
  const std::string header = std::string("\x02\0\0\0\0\0\0\0{}", 10);
  FakeHuggingFace hub({{"config.json", "{}"},
                       {"model.safetensors", header + std::string(50'000, 'w')},
                       {"pytorch_model.bin", "PK"},
                       {"1_Pooling/config.json", "{\"a\":1}"},
                       {"onnx/model.onnx", "x"},
                       {"consolidated.safetensors", header}});
  hub.small = {"config.json", "1_Pooling/config.json"};
  const auto store = open(hub);
  const auto pulled = pull(*store, "hf:acme/tiny");
  ASSERT_TRUE(pulled) << pulled.error().message;
  std::vector<std::string> got;
  for (const auto& file : pulled->files) got.push_back(file.name + " " + file.checked_by);
  EXPECT_THAT(
      got, testing::ElementsAre("1_Pooling/config.json git_sha1", "config.json git_sha1", "model.safetensors sha256"));
  const auto found = store->ready("tiny", unwatched);
  ASSERT_TRUE(found) << found.error().message;
  EXPECT_EQ(contents(found->path + "/1_Pooling/config.json"), "{\"a\":1}");
  EXPECT_EQ(contents(found->path + "/config.json"), "{}");
  // A file that changed is all that comes the next time.
  hub.files["config.json"] = "{\"new\":1}";
  const auto before = hub.cdn.requests().size();
  ASSERT_TRUE(pull(*store, "hf:acme/tiny"));
  EXPECT_EQ(hub.cdn.requests().size(), before);
  EXPECT_EQ(contents(found->path + "/config.json"), "{\"new\":1}");
}

TEST_F(ModelStoreTest, RefusesPicklesByNameAndByContent) {
  FakeHuggingFace hub({{"pytorch_model.bin", "PK"}, {"config.json", "{}"}});
  const auto store = open(hub);
  EXPECT_THAT(pull(*store, "hf:acme/tiny").error().message, HasSubstr("pytorch_model.bin"));
  EXPECT_EQ(pull(*store, "hf:acme/tiny:pytorch_model.bin").error().code, Code::unsupported);
  EXPECT_EQ(hub.hub.count("/resolve/"), 0u);
  hub.files = {{"model.gguf", "PK\x03\x04" + std::string(1000, 'x')}};
  EXPECT_EQ(pull(*store, "hf:acme/tiny").error().code, Code::unsupported);
  EXPECT_TRUE(names("blobs").empty());
  EXPECT_TRUE(names("partial").empty());
}

TEST_F(ModelStoreTest, GoesOnWhereItWasCutOff) {
  const std::string model = gguf_bytes(1'000'000);
  FakeHuggingFace hub({{"m.gguf", model}});
  std::atomic<int> answers = 0;
  std::atomic<bool> mended = false;
  hub.on_cdn = [&](const FakeRequest& request, const std::string& body) -> std::optional<FakeAnswer> {
    if (mended || request.header("range") == "bytes=0-0" || ++answers <= 8) return std::nullopt;
    FakeAnswer answer = give_file(request, body, "\"" + hex_of(body).substr(0, 32) + "\"");
    answer.cut = 100;
    return answer;
  };
  const auto store = open(hub);
  const auto failed = pull(*store, "hf:acme/tiny");
  ASSERT_FALSE(failed);
  EXPECT_TRUE(names("blobs").empty());
  EXPECT_EQ(names("partial").size(), 2u);
  mended = true;
  const auto before = hub.cdn.requests().size();
  const auto pulled = pull(*open(hub), "hf:acme/tiny");
  ASSERT_TRUE(pulled) << pulled.error().message;
  // 16 pieces, of which 8 had come but for those that three connections were still fetching.
  EXPECT_LE(hub.cdn.requests().size() - before, 13u);
  EXPECT_TRUE(names("partial").empty());
  EXPECT_EQ(contents(store->ready("tiny", unwatched)->path), model);
}

TEST_F(ModelStoreTest, BearsBrokenTransfersAndBusyServers) {
  const std::string model = gguf_bytes(600'000);
  FakeHuggingFace hub({{"m.gguf", model}});
  std::atomic<int> answers = 0;
  hub.on_cdn = [&](const FakeRequest& request, const std::string& body) -> std::optional<FakeAnswer> {
    FakeAnswer answer = give_file(request, body, "\"" + hex_of(body).substr(0, 32) + "\"");
    switch (++answers % 7) {
      case 1:
        return FakeAnswer{.status = 429, .headers = {{"retry-after", "0"}}};
      case 3:
        return FakeAnswer{.status = 503};
      case 4:
        answer.cut = answer.body.size() / 2;
        return answer;
      case 6:
        answer.headers["content-range"] = "bytes 7-8/600000";
        return answer;
    }
    return std::nullopt;
  };
  auto courier = quick();
  courier.retries = 100;
  auto store = ModelStore::open({.options = {.store = folder / "store", .pull_connections = 3},
                                 .hubs = {.hf_endpoint = hub.hub.url()},
                                 .courier = courier,
                                 .download = {.piece = 64 << 10, .small = 8 << 10}});
  const auto pulled = pull(**store, "hf:acme/tiny");
  ASSERT_TRUE(pulled) << pulled.error().message;
  EXPECT_EQ(contents((*store)->ready("tiny", unwatched)->path), model);
}

TEST_F(ModelStoreTest, AWaitThatIsTooLongIsAnError) {
  FakeHuggingFace hub({{"m.gguf", gguf_bytes(100'000)}});
  hub.on_cdn = [&](const FakeRequest&, const std::string&) {
    return FakeAnswer{.status = 429, .headers = {{"retry-after", "3600"}}};
  };
  const auto pulled = pull(*open(hub), "hf:acme/tiny");
  EXPECT_EQ(pulled.error().code, Code::exhausted);
  EXPECT_THAT(pulled.error().message, HasSubstr("3600 s"));
  EXPECT_THAT(pulled.error().message, Not(HasSubstr("secret")));
}

TEST_F(ModelStoreTest, NoticesThatTheFileChangesMeanwhile) {
  const std::string first = gguf_bytes(600'000, 1), second = gguf_bytes(600'000, 2);
  std::atomic<int> answers = 0;
  const FakeServer server([&](const FakeRequest& request) {
    return ++answers <= 4 ? give_file(request, first, "\"one\"") : give_file(request, second, "\"two\"");
  });
  const auto store = open(HubSettings{});
  const auto pulled = pull(*store, server.url("/x/m.gguf"));
  ASSERT_TRUE(pulled) << pulled.error().message;
  EXPECT_EQ(contents(store->ready("m", unwatched)->path), second);
  EXPECT_EQ(pulled->files[0].checked_by, "");
}

TEST_F(ModelStoreTest, SetsAsideWhatHasAWrongChecksumAndFetchesItAgain) {
  const std::string model = gguf_bytes(200'000);
  FakeHuggingFace hub({{"m.gguf", model}});
  std::string wrong = model;
  wrong[100'000] ^= 1;
  std::atomic<int> left = 5;  // the probe, and the pieces
  hub.on_cdn = [&](const FakeRequest& request, const std::string&) -> std::optional<FakeAnswer> {
    if (--left < 0) return std::nullopt;
    return give_file(request, wrong, "\"w\"");
  };
  const auto store = open(hub);
  const auto pulled = pull(*store, "hf:acme/tiny");
  ASSERT_TRUE(pulled) << pulled.error().message;
  EXPECT_EQ(names("aside").size(), 1u);
  EXPECT_EQ(contents(store->ready("tiny", unwatched)->path), model);

  left = 1 << 30;
  hub.files = {{"n.gguf", gguf_bytes(200'000, 3)}};
  const auto never = pull(*store, "hf:acme/tiny:n.gguf");
  EXPECT_EQ(never.error().code, Code::corrupt);
  EXPECT_THAT(never.error().message, HasSubstr("sha256"));
  EXPECT_FALSE(store->find("n"));
  EXPECT_EQ(names("blobs").size(), 1u);
}

TEST_F(ModelStoreTest, RefusesNamesThatLeaveTheirFolder) {
  for (const std::string& name : std::vector<std::string>{"../../evil.gguf", "/tmp/evil.gguf", "a/../../evil.gguf",
                                                          std::string("evil\0.gguf", 10), "a\\..\\evil.gguf"}) {
    FakeHuggingFace hub({{name, gguf_bytes(100)}});
    const auto pulled = pull(*open(hub), "hf:acme/tiny");
    ASSERT_FALSE(pulled) << name;
    EXPECT_EQ(pulled.error().code, Code::corrupt);
    EXPECT_EQ(hub.hub.count("/resolve/"), 0u);
  }
}

TEST_F(ModelStoreTest, SaysWhenTheDiskIsTooSmall) {
  FakeHuggingFace hub({{"m.gguf", gguf_bytes(100)}});
  const FakeServer server([&](const FakeRequest&) {
    Json json = *parse_json(hub.listing());
    json["siblings"][0]["size"] = json["siblings"][0]["lfs"]["size"] = std::uint64_t{1} << 45;
    return FakeAnswer{.body = dump_json(json)};
  });
  const auto pulled = pull(*open({.hf_endpoint = server.url()}), "hf:acme/tiny");
  EXPECT_EQ(pulled.error().code, Code::io);
  EXPECT_THAT(pulled.error().message, HasSubstr("the disk is full: 32.0 TiB are needed"));
  EXPECT_TRUE(names("partial").empty());
}

TEST_F(ModelStoreTest, OfflineAsksNobody) {
  FakeHuggingFace hub({{"m.gguf", gguf_bytes(100'000)}});
  const auto offline = open(hub, true);
  EXPECT_THAT(pull(*offline, "hf:acme/tiny").error().message, HasSubstr("offline"));
  EXPECT_TRUE(hub.hub.requests().empty());
  ASSERT_TRUE(pull(*open(hub), "hf:acme/tiny"));
  EXPECT_TRUE(offline->ready("tiny", unwatched));
}

TEST_F(ModelStoreTest, ADamagedFileIsSetAsideAndNeverServed) {
  const std::string model = gguf_bytes(100'000);
  FakeHuggingFace hub({{"m.gguf", model}});
  const auto store = open(hub);
  const auto pulled = pull(*store, "hf:acme/tiny");
  ASSERT_TRUE(pulled);
  const std::string blob = folder / ("store/blobs/sha256-" + hex_of(model));
  const auto damage = [&] {
    fs::permissions(blob, fs::perms::owner_all);
    std::fstream(blob, std::ios::in | std::ios::out | std::ios::binary).seekp(5000).put('!').put('?');
  };
  damage();
  const auto refused = open(hub, true)->ready("tiny", unwatched);
  EXPECT_EQ(refused.error().code, Code::unavailable);
  EXPECT_EQ(names("aside").size(), 1u);
  const auto mended = store->ready("tiny", unwatched);
  ASSERT_TRUE(mended) << mended.error().message;
  EXPECT_EQ(contents(mended->path), model);
  // Touched but not changed: checked, and kept.
  fs::last_write_time(blob, fs::file_time_type::clock::now());
  EXPECT_TRUE(open(hub, true)->ready("tiny", unwatched));
}

TEST_F(ModelStoreTest, TwoPullsOfOneFileFetchItOnce) {
  FakeHuggingFace hub({{"m.gguf", gguf_bytes(2'000'000)}});
  std::atomic<std::uint64_t> bytes = 0;
  hub.on_cdn = [&](const FakeRequest& request, const std::string& body) -> std::optional<FakeAnswer> {
    bytes += give_file(request, body, "\"" + hex_of(body).substr(0, 32) + "\"").body.size();
    return std::nullopt;
  };
  std::vector<std::thread> threads;
  for (int i = 0; i < 3; ++i)
    threads.emplace_back([&] {
      const auto pulled = pull(*open(hub), "hf:acme/tiny");
      EXPECT_TRUE(pulled) << pulled.error().message;
    });
  for (std::thread& thread : threads) thread.join();
  EXPECT_LT(bytes, 2'100'000u);
}

TEST_F(ModelStoreTest, ModelsShareBytesAndRemovingKeepsTheOthers) {
  const std::string model = gguf_bytes(20'000);
  FakeHuggingFace hub({{"a.gguf", model}, {"b.gguf", model}});
  const auto store = open(hub);
  ASSERT_TRUE(pull(*store, "hf:acme/tiny:a.gguf", "one"));
  ASSERT_TRUE(pull(*store, "hf:acme/tiny:b.gguf", "two"));
  EXPECT_EQ(names("blobs").size(), 1u);
  EXPECT_EQ(store->find("tiny").error().code, Code::invalid);  // either
  EXPECT_EQ(pull(*store, "hf:acme/tiny:b.gguf", "one").error().code, Code::invalid);
  EXPECT_EQ(store->remove("one")->files, 0);
  EXPECT_EQ(contents(store->ready("two", unwatched)->path), model);
  EXPECT_EQ(store->remove("two")->bytes, Bytes{model.size()});
  EXPECT_TRUE(names("blobs").empty());
  EXPECT_THAT(store->find("two").error().message, HasSubstr("ashlar pull ollama:two"));
  EXPECT_THAT(store->find("acme/tiny").error().message, HasSubstr("ashlar pull hf:acme/tiny"));

  std::ofstream(folder / "store/blobs/sha256-orphan") << "orphan";
  std::ofstream(folder / "store/partial/sha256-young") << "young";
  EXPECT_EQ(store->gc(false)->files, 1);
  EXPECT_EQ(store->gc(true)->files, 1);
}

TEST_F(ModelStoreTest, ADamagedManifestHidesItsOwnModelOnly) {
  const std::string model = gguf_bytes(30'000), other = gguf_bytes(20'000);
  FakeHuggingFace hub({{"a.gguf", model}, {"b.gguf", other}});
  const auto store = open(hub);
  const auto one = pull(*store, "hf:acme/tiny:a.gguf", "one");
  ASSERT_TRUE(pull(*store, "hf:acme/tiny:b.gguf", "two"));
  std::string path;
  for (const std::string& name : names("manifests"))
    if (name.find("a.gguf") != name.npos) path = folder / ("store/manifests/" + name);
  const std::string good = contents(path);
  std::string misplaced = good;
  misplaced.replace(misplaced.find("a.gguf"), 6, "b.gguf");
  for (const std::string& bad : {std::string(), std::string("{"), std::string(good, 0, good.size() / 2), misplaced,
                                 std::string("{\"format\": 2}")}) {
    std::ofstream(path) << bad;
    EXPECT_EQ(store->list().models.size(), 1u);
    ASSERT_EQ(store->list().damaged.size(), 1u);
    EXPECT_THAT(store->list().damaged[0].message, HasSubstr(path + ": the manifest cannot be used: "));
    EXPECT_EQ(contents(store->ready("two", unwatched)->path), other);
    const auto lost = store->find("one");
    EXPECT_EQ(lost.error().code, Code::not_found);
    EXPECT_THAT(lost.error().message, HasSubstr("pull its model again, or remove this file"));
    // Nothing of it is thrown away by mistake.
    EXPECT_EQ(store->gc(true).error().code, Code::corrupt);
    EXPECT_EQ(names("blobs").size(), 2u);
    const std::size_t asked = hub.cdn.requests().size();
    ASSERT_TRUE(pull(*store, "hf:acme/tiny:a.gguf", "one"));
    EXPECT_EQ(hub.cdn.requests().size(), asked) << "its bytes were still here";
    EXPECT_TRUE(store->list().damaged.empty());
    EXPECT_EQ(contents(store->ready("one", unwatched)->path), model);
  }
  std::ofstream(path) << "damage";
  EXPECT_EQ(store->remove("two")->files, 0) << "who knows what the other one needs";
  std::filesystem::remove(path);
  EXPECT_EQ(store->gc(false)->files, 2);
}

TEST_F(ModelStoreTest, RemovingMayBeCutOffAnywhere) {
  const std::string model = gguf_bytes(30'000);
  FakeHuggingFace hub({{"m.gguf", model}});
  const auto store = open(hub);
  const std::string root = folder / "store";
  // In the order in which remove() goes about it: a process that was killed has done so many of them.
  const std::vector<std::string> steps = {"manifests", "models", "blobs", "seals"};
  for (std::size_t done = 1; done <= steps.size(); ++done) {
    ASSERT_TRUE(pull(*store, "hf:acme/tiny"));
    for (std::size_t step = 0; step < done; ++step)
      for (const std::string& name : names(steps[step])) fs::remove_all(root + "/" + steps[step] + "/" + name);
    EXPECT_EQ(store->find("tiny").error().code, Code::not_found);
    // Pulled again, it is whole; or gc finds what is left.
    ASSERT_TRUE(pull(*store, "hf:acme/tiny"));
    EXPECT_EQ(contents(store->ready("tiny", unwatched)->path), model);
    for (std::size_t step = 0; step < done; ++step)
      for (const std::string& name : names(steps[step])) fs::remove_all(root + "/" + steps[step] + "/" + name);
    ASSERT_TRUE(store->gc(false));
    for (const std::string& room : steps) EXPECT_TRUE(names(room).empty()) << room << " after " << done;
  }
}

TEST_F(ModelStoreTest, WhoRemovesAndWhoPullsKeepOutOfEachOthersWay) {
  const std::string model = gguf_bytes(300'000), other = gguf_bytes(1000);
  FakeHuggingFace hub({{"m.gguf", model}, {"other.gguf", other}});
  std::atomic<bool> looked = false;
  hub.on_cdn = [&](const FakeRequest& request, const std::string& body) -> std::optional<FakeAnswer> {
    // In the midst of the pull.
    if (body == model && request.header("range") != "" && !looked.exchange(true)) {
      EXPECT_EQ(open(hub)->gc(true).error().code, Code::unavailable);
      const auto removed = open(hub)->remove("other");
      EXPECT_TRUE(removed && removed->files == 0) << "its bytes are left to gc";
      EXPECT_FALSE(names("partial").empty());
    }
    return std::nullopt;
  };
  const auto store = open(hub);
  ASSERT_TRUE(pull(*store, "hf:acme/tiny:other.gguf"));
  ASSERT_TRUE(pull(*store, "hf:acme/tiny:m.gguf"));
  EXPECT_TRUE(looked);
  EXPECT_EQ(contents(store->ready("m", unwatched)->path), model);
  EXPECT_EQ(store->gc(false)->bytes, Bytes{other.size()});

  // A pull waits for who holds the store alone, and says so.
  auto lock = std::make_optional(*FolderLock::take(folder / "store/lock", FolderLock::Kind::exclusive));
  int waited = 0;
  const auto pulled =
      store->pull({.reference = *parse_reference("hf:acme/tiny:other.gguf")}, [&](const PullProgress& progress) {
        if (progress.stage == Stage::waiting && ++waited == 3) lock.reset();
        return Status();
      });
  ASSERT_TRUE(pulled) << pulled.error().message;
  EXPECT_GE(waited, 3);
}

TEST_F(ModelStoreTest, SplitModelsComeWhole) {
  FakeHuggingFace hub({{"m-00001-of-00002.gguf", gguf_bytes(100)},
                       {"m-00002-of-00002.gguf", gguf_bytes(200)},
                       {"mmproj-m.gguf", gguf_bytes(300)}});
  const auto store = open(hub);
  ASSERT_TRUE(pull(*store, "hf:acme/tiny"));
  const auto found = store->ready("tiny", unwatched);
  EXPECT_EQ(found->manifest.files.size(), 2u);
  EXPECT_TRUE(found->path.ends_with("m-00001-of-00002.gguf"));
}

TEST_F(ModelStoreTest, AskedForTooLittleItSaysWhatThereIs) {
  FakeHuggingFace hub({{"m-Q2_K.gguf", gguf_bytes(100)}, {"m-Q8_0.gguf", gguf_bytes(200)}});
  const auto store = open(hub);
  EXPECT_THAT(pull(*store, "hf:acme/tiny").error().message, HasSubstr("m-Q2_K.gguf, m-Q8_0.gguf"));
  EXPECT_THAT(pull(*store, "hf:acme/tiny:Q4_K").error().message, HasSubstr("there is no file 'Q4_K'"));
  EXPECT_TRUE(pull(*store, "hf:acme/tiny:q8_0"));
  EXPECT_EQ(pull(*store, "hf:acme/none").error().code, Code::not_found);
  hub.token = "t";
  EXPECT_THAT(pull(*open({.hf_endpoint = hub.hub.url()}), "hf:acme/tiny").error().message, HasSubstr("HF_TOKEN"));
}

TEST_F(ModelStoreTest, InterruptedItKeepsWhatCame) {
  FakeHuggingFace hub({{"m.gguf", gguf_bytes(3'000'000)}});
  const auto store = open(hub);
  const auto stopped =
      store->pull({.reference = *parse_reference("hf:acme/tiny")}, [](const PullProgress& progress) -> Status {
        if (progress.done > 0 && progress.stage == Stage::fetching) return Error{Code::cancelled, "enough"};
        return {};
      });
  if (!stopped) EXPECT_EQ(stopped.error().code, Code::cancelled);
  ASSERT_TRUE(pull(*store, "hf:acme/tiny"));
}

TEST_F(ModelStoreTest, PullsFromModelScope) {
  const std::string model = gguf_bytes(100'000);
  const FakeServer server([&](const FakeRequest& request) -> FakeAnswer {
    if (request.target == "/api/v1/models/acme/tiny/repo/files?Revision=master&Recursive=true")
      return {.body = dump_json({{"Code", 200},
                                 {"Success", true},
                                 {"RequestId", "r"},
                                 {"Message", "success"},
                                 {"Data",
                                  {{"Files",
                                    {{{"Name", "gguf"}, {"Path", "gguf"}, {"Type", "tree"}, {"Size", 0}},
                                     {{"Name", "m.gguf"},
                                      {"Path", "gguf/m.gguf"},
                                      {"Type", "blob"},
                                      {"Size", model.size()},
                                      {"Sha256", hex_of(model)},
                                      {"IsLFS", true},
                                      {"Revision", "abc"}}}}}}})};
    if (request.target == "/api/v1/models/acme/tiny")
      return {.body = dump_json({{"Code", 200}, {"Data", {{"License", "Apache License 2.0"}}}})};
    if (request.target == "/api/v1/models/acme/tiny/repo?Revision=master&FilePath=gguf%2Fm.gguf")
      return give_file(request, model);
    return {.body = R"({"Code":10010205001,"Message":"record not found","Success":false})"};
  });
  const auto store = open({.ms_endpoint = server.url(), .ms_token = "ms"});
  const auto pulled = pull(*store, "ms:acme/tiny");
  ASSERT_TRUE(pulled) << pulled.error().message;
  EXPECT_EQ(pulled->licence, "Apache License 2.0");
  EXPECT_EQ(contents(store->ready("m", unwatched)->path), model);
  EXPECT_THAT(pull(*store, "ms:acme/none").error().message, HasSubstr("record not found"));
  for (const auto& request : server.requests()) EXPECT_EQ(request.header("authorization"), "Bearer ms");
}

TEST_F(ModelStoreTest, PullsFromOllama) {
  const std::string model = gguf_bytes(100'000), licence = "\n  Apache License\nVersion 2.0", tmpl = "{{ .Prompt }}";
  const FakeServer storage([&](const FakeRequest& request) { return give_file(request, model); });
  const FakeServer registry([&](const FakeRequest& request) -> FakeAnswer {
    const auto layer = [](const std::string& kind, const std::string& body) {
      return Json{{"mediaType", "application/vnd.ollama.image." + kind},
                  {"digest", "sha256:" + hex_of(body)},
                  {"size", body.size()}};
    };
    if (request.target == "/v2/library/tiny/manifests/0.6b")
      return {
          .headers = {{"content-type", "application/vnd.docker.distribution.manifest.v2+json"}},
          .body = dump_json({{"schemaVersion", 2},
                             {"mediaType", "application/vnd.docker.distribution.manifest.v2+json"},
                             {"config",
                              {{"mediaType", "application/vnd.docker.container.image.v1+json"},
                               {"digest", "sha256:" + hex_of("c")},
                               {"size", 1}}},
                             {"layers", {layer("model", model), layer("template", tmpl), layer("license", licence)}}})};
    if (request.target.ends_with(hex_of(model)))
      return {.status = 307, .headers = {{"location", storage.url("/r2/x?sig=1")}}};
    if (request.target.ends_with(hex_of(licence))) return give_file(request, licence);
    if (request.target.ends_with(hex_of(tmpl))) return give_file(request, tmpl);
    return {.status = 404, .body = R"({"errors":[{"code":"MANIFEST_UNKNOWN"}]})"};
  });
  const auto store = open({.ollama_endpoint = registry.url()});
  const auto pulled = pull(*store, "ollama:tiny:0.6b");
  ASSERT_TRUE(pulled) << pulled.error().message;
  EXPECT_EQ(pulled->licence, "Apache License");
  const auto found = store->ready("tiny:0.6b", unwatched);
  ASSERT_TRUE(found) << found.error().message;
  EXPECT_EQ(contents(found->path), model);
  EXPECT_EQ(pull(*store, "ollama:tiny:7b").error().code, Code::not_found);
}

TEST_F(ModelStoreTest, PullsFromS3) {
  const std::string header = std::string("\x02\0\0\0\0\0\0\0{}", 10), weights = header + std::string(30'000, 'w');
  const FakeServer server([&](const FakeRequest& request) -> FakeAnswer {
    if (!request.header("authorization").starts_with("AWS4-HMAC-SHA256 Credential=id/")) return {.status = 403};
    const auto first = request.target.find("continuation-token=next%2F1%3D") == std::string::npos;
    if (request.target.starts_with("/bucket/?"))
      return {.body = first ? "<ListBucketResult><IsTruncated>true</IsTruncated><NextContinuationToken>next/1=</"
                              "NextContinuationToken>"
                              "<Contents><Key>m/config.json</Key><Size>2</Size></Contents></ListBucketResult>"
                            : fmt::format("<ListBucketResult><IsTruncated>false</IsTruncated><Contents><Key>m/"
                                          "model.safetensors</Key><Size>{}</Size>"
                                          "</Contents></ListBucketResult>",
                                          weights.size())};
    FakeAnswer answer{.status = 404};
    if (request.target == "/bucket/m/config.json") answer = give_file(request, "{}");
    if (request.target == "/bucket/m/model.safetensors") {
      answer = give_file(request, weights);
      answer.headers["x-amz-meta-sha256"] = hex_of(weights);
    }
    return answer;
  });
  const auto store = open({.s3_endpoint = server.url(), .s3_key_id = "id", .s3_secret = "secret"});
  const auto pulled = pull(*store, "s3://bucket/m");
  ASSERT_TRUE(pulled) << pulled.error().message;
  EXPECT_EQ(pulled->files.size(), 2u);
  EXPECT_EQ(pulled->files[1].checked_by, "sha256");
  EXPECT_TRUE(pull(*store, "s3://bucket/m/model.safetensors"));
  EXPECT_EQ(pull(*store, "s3://bucket/m/weights.bin").error().code, Code::unsupported);
}

TEST_F(ModelStoreTest, PullsFromAServerThatKnowsNoRanges) {
  const std::string model = gguf_bytes(300'000);
  const FakeServer server([&](const FakeRequest&) { return FakeAnswer{.body = model}; });
  const auto store = open(HubSettings{});
  const auto reference = *parse_reference(server.url("/m.gguf?token=secret"));
  ASSERT_TRUE(store->pull({.reference = reference, .sha256 = hex_of(model)}, unwatched));
  EXPECT_EQ(store->pull({.reference = reference, .sha256 = hex_of("other")}, unwatched).error().code, Code::corrupt);
  EXPECT_THAT(contents(folder / ("store/manifests/" + names("manifests").at(0))), Not(HasSubstr("token")));
}

TEST_F(ModelStoreTest, WhatIsSeldomUsedGoesToTheObjectStoreAndComesBack) {
  const std::string old = gguf_bytes(50'000, 1), recent = gguf_bytes(60'000, 2);
  FakeHuggingFace hub({{"old.gguf", old}, {"recent.gguf", recent}});
  auto store = *ModelStore::open({.options = {.store = folder / "store", .object_store = folder / "cold"},
                                  .hubs = {.hf_endpoint = hub.hub.url()},
                                  .courier = quick()});
  EXPECT_EQ(open(hub)->cool({0}, unwatched).error().code, Code::invalid);
  const auto first = pull(*store, "hf:acme/tiny:old.gguf");
  ASSERT_TRUE(first) << first.error().message;
  ASSERT_TRUE(pull(*store, "hf:acme/tiny:recent.gguf"));
  fs::last_write_time(folder / ("store/manifests/" +
                                [&] {
                                  for (const auto& name : names("manifests"))
                                    if (name.find("old.gguf") != std::string::npos) return name;
                                  return std::string();
                                }()),
                      fs::file_time_type::clock::now() - std::chrono::hours(1));
  const auto moved = store->cool({70'000}, unwatched);
  ASSERT_TRUE(moved) << moved.error().message;
  EXPECT_EQ(moved->bytes, Bytes{old.size()});
  EXPECT_FALSE(store->is_here(*first));
  EXPECT_EQ(names("blobs").size(), 1u);
  EXPECT_EQ(store->gc(false)->files, 0);
  const auto before = hub.hub.requests().size();
  const auto found = store->ready("old", unwatched);
  ASSERT_TRUE(found) << found.error().message;
  EXPECT_EQ(contents(found->path), old);
  EXPECT_EQ(hub.hub.requests().size(), before);
  // What the object store has spoilt comes from the hub.
  ASSERT_TRUE(store->cool({0}, unwatched));
  std::ofstream(folder / ("cold/blobs/sha256-" + hex_of(old)), std::ios::binary) << gguf_bytes(50'000, 9);
  EXPECT_EQ(contents(store->ready("old", unwatched)->path), old);
  EXPECT_GT(hub.hub.requests().size(), before);
}

TEST(Manifests, ReadBackAndRefuseWhatIsWrong) {
  const Manifest manifest{.reference = "hf:a/b",
                          .files = {{.name = "x/y.json", .size = 3, .sha256 = std::string(64, 'a')}}};
  const std::string text = dump_json(manifest_json(manifest));
  ASSERT_TRUE(read_manifest(text));
  const auto with = [&](const std::string& from, const std::string& to) {
    std::string changed = text;
    changed.replace(changed.find(from), from.size(), to);
    return read_manifest(changed);
  };
  EXPECT_FALSE(with("x/y.json", "../y.json"));
  EXPECT_FALSE(with("x/y.json", "y.bin"));
  EXPECT_FALSE(with("aaaa", "zzzz"));
  EXPECT_FALSE(with("\"size\":3", "\"size\":-3"));
  EXPECT_FALSE(with("hf:a/b", "ms:a"));
  EXPECT_FALSE(with("\"format\":1", "\"format\":2"));
  EXPECT_FALSE(read_manifest("[]"));
}

}  // namespace
}  // namespace ashlar::store
