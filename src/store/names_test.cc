#include "store/names.h"

#include <gtest/gtest.h>

#include "store/reference.h"

namespace ashlar::store {
namespace {

using namespace std::string_view_literals;

TEST(Names, StayInTheirFolder) {
  for (const auto good : {"model.gguf", "a/b/c.json", "Модель.gguf", "x y.txt", ".gitattributes", "a..b", "..."})
    EXPECT_TRUE(check_file_name(good)) << good;
  for (const auto bad : {""sv, "/etc/passwd"sv, "../x"sv, "a/../b"sv, "a/.."sv, "a//b"sv, "a/"sv, "./a"sv, "a\0b"sv,
                         "a\nb"sv, "a\\..\\b"sv, "a\xff"sv, "\x7f"sv})
    EXPECT_FALSE(check_file_name(bad)) << bad;
  EXPECT_FALSE(check_file_name(std::string(201, 'a')));
  EXPECT_FALSE(check_file_name("a/b/c/d/e/f/g/h/i/j/k/l/m/n/o/p/q"));
}

TEST(Names, OfPicklesAndArchivesAreRefused) {
  for (const auto bad :
       {"pytorch_model.bin", "a.PT", "x.pth", "m.ckpt", "w.zip", "d/e.pkl", "a.npz", "a.tar.gz", "A.SAFETENSORS.BIN"}) {
    EXPECT_TRUE(is_refused(bad)) << bad;
    EXPECT_EQ(check_kind(bad).error().code, Code::unsupported) << bad;
  }
  for (const auto good : {"model.gguf", "model.safetensors", "tokenizer.model", "config.json", "bin", "merges.txt"})
    EXPECT_FALSE(is_refused(good)) << good;
}

TEST(Names, FirstBytesTellAPickleUnderAnyName) {
  EXPECT_EQ(check_first_bytes("model.gguf", "PK\x03\x04............"sv).error().code, Code::unsupported);
  EXPECT_EQ(check_first_bytes("weights", "\x80\x02}q\x01............"sv).error().code, Code::unsupported);
  EXPECT_EQ(check_first_bytes("model.gguf", "<html>...........").error().code, Code::corrupt);
  EXPECT_EQ(check_first_bytes("m.safetensors", "<html>...........").error().code, Code::corrupt);
  EXPECT_TRUE(check_first_bytes("m.safetensors", "\x80\x02\0\0\0\0\0\0{\"a\"}"sv));
  EXPECT_TRUE(check_first_bytes("model.gguf", "GGUF\3\0\0\0........"sv));
  EXPECT_TRUE(check_first_bytes("config.json", "{}"));
}

TEST(References, ReadAsTheyAreTyped) {
  const auto hf = parse_reference("hf:Qwen/Qwen3-0.6B-GGUF:Q8_0");
  ASSERT_TRUE(hf);
  EXPECT_EQ(hf->repository, "Qwen/Qwen3-0.6B-GGUF");
  EXPECT_EQ(hf->file, "Q8_0");
  EXPECT_EQ(hf->revision, "main");
  EXPECT_EQ(hf->short_name(), "Qwen3-0.6B-GGUF");
  for (const auto same : {"hf:Qwen/Qwen3-0.6B-GGUF:Q8_0", "hf:a/b@v1.0:dir/f.gguf", "hf:gpt2", "ms:a/b", "ms:a/b@dev",
                          "ollama:qwen3:0.6b", "ollama:me/mine:latest", "ollama:hf.co/a/b:Q4_K_M",
                          "ollama:http://127.0.0.1:5000/library/x:1", "ollama:https://localhost/u/x:1",
                          "s3://bucket/a/b.gguf", "s3://bucket/folder/", "https://host/a.gguf"})
    EXPECT_EQ(parse_reference(same).value_or(Reference{}).text(), same);
  EXPECT_EQ(parse_reference("ollama:llama3.2")->text(), "ollama:llama3.2:latest");
  EXPECT_EQ(parse_reference("https://host/a.gguf?token=secret")->text(), "https://host/a.gguf");
  EXPECT_EQ(parse_reference("ollama:hf.co/a/b:Q4_K_M")->host, "https://hf.co");
  for (const std::string bad : {"",
                                "model",
                                "hf:",
                                "hf:a/b/c",
                                "hf:a/../b",
                                "hf:../b",
                                "hf:a/b:",
                                "hf:a/b:../x",
                                "hf:a/b:/x",
                                "ms:a",
                                "ollama:",
                                "ollama:a:b:c",
                                "s3://",
                                "s3://bucket",
                                "s3://bucket/../x",
                                "https://host",
                                "https://host/",
                                "https://user@host/a.gguf",
                                "ftp://h/a",
                                "hf:a b/c",
                                "https://host/%2e%2e"})
    EXPECT_FALSE(parse_reference(bad)) << bad;
}

}  // namespace
}  // namespace ashlar::store
