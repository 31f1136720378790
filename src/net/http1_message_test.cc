// What a request may look like, and what it may not: tables of bytes.
#include "net/http1_message.h"

#include <gtest/gtest.h>

#include "net/http_text.h"
#include "net/test_peer.h"

namespace ashlar::net {
namespace {

struct Case {
  const char* name;
  std::string_view bytes;
  int status;
};

using namespace std::string_view_literals;

const Case kRefused[] = {
    {"no version", "GET /\r\n\r\n", 400},
    {"two spaces", "GET  / HTTP/1.1\r\nhost: a\r\n\r\n", 400},
    {"space at the end", "GET / HTTP/1.1 \r\nhost: a\r\n\r\n", 400},
    {"tab for space", "GET\t/ HTTP/1.1\r\nhost: a\r\n\r\n", 400},
    {"odd method", "GE(T / HTTP/1.1\r\nhost: a\r\n\r\n", 400},
    {"empty method", " / HTTP/1.1\r\nhost: a\r\n\r\n", 400},
    {"endless method",
     "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA / HTTP/1.1\r\nhost: a\r\n\r\n", 400},
    {"HTTP/2.0 in words", "GET / HTTP/2.0\r\nhost: a\r\n\r\n", 505},
    {"HTTP/0.9 in words", "GET / HTTP/0.9\r\nhost: a\r\n\r\n", 505},
    {"lower-case http", "GET / http/1.1\r\nhost: a\r\n\r\n", 400},
    {"long version", "GET / HTTP/1.10\r\nhost: a\r\n\r\n", 400},
    {"CONNECT", "CONNECT a:80 HTTP/1.1\r\nhost: a\r\n\r\n", 501},
    {"relative target", "GET x HTTP/1.1\r\nhost: a\r\n\r\n", 400},
    {"ftp target", "GET ftp://a/ HTTP/1.1\r\nhost: a\r\n\r\n", 400},
    {"target without host", "GET http:/// HTTP/1.1\r\nhost: a\r\n\r\n", 400},
    {"fragment", "GET /a#b HTTP/1.1\r\nhost: a\r\n\r\n", 400},
    {"bad percent", "GET /%zz HTTP/1.1\r\nhost: a\r\n\r\n", 400},
    {"short percent", "GET /%2 HTTP/1.1\r\nhost: a\r\n\r\n", 400},
    {"percent nul", "GET /%00 HTTP/1.1\r\nhost: a\r\n\r\n", 400},
    {"raw byte in target", "GET /\xff HTTP/1.1\r\nhost: a\r\n\r\n", 400},
    {"nul in target", "GET /\0 HTTP/1.1\r\nhost: a\r\n\r\n"sv, 400},
    {"bare LF", "GET / HTTP/1.1\nhost: a\n\n", 400},
    {"bare LF after a good line", "GET / HTTP/1.1\r\nhost: a\n\r\n", 400},
    {"bare CR in a value", "GET / HTTP/1.1\r\nhost: a\r\nx: a\rb\r\n\r\n", 400},
    {"doubled CR", "GET / HTTP/1.1\r\nhost: a\r\r\n\r\n", 400},
    {"folded line", "GET / HTTP/1.1\r\nhost: a\r\nx: a\r\n b\r\n\r\n", 400},
    {"folded first line", "GET / HTTP/1.1\r\n host: a\r\n\r\n", 400},
    {"space before colon", "GET / HTTP/1.1\r\nhost : a\r\n\r\n", 400},
    {"empty name", "GET / HTTP/1.1\r\nhost: a\r\n: x\r\n\r\n", 400},
    {"no colon", "GET / HTTP/1.1\r\nhost: a\r\nnonsense\r\n\r\n", 400},
    {"odd name", "GET / HTTP/1.1\r\nhost: a\r\nx y: z\r\n\r\n", 400},
    {"nul in value", "GET / HTTP/1.1\r\nhost: a\r\nx: a\0b\r\n\r\n"sv, 400},
    {"no host", "GET / HTTP/1.1\r\n\r\n", 400},
    {"two hosts", "GET / HTTP/1.1\r\nhost: a\r\nhost: a\r\n\r\n", 400},
    {"host with a path", "GET / HTTP/1.1\r\nhost: a/b\r\n\r\n", 400},
    {"length and encoding",
     "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 3\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n", 400},
    {"encoding and length",
     "POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\ncontent-length: 3\r\n\r\n0\r\n\r\n", 400},
    {"differing lengths", "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 3\r\ncontent-length: 4\r\n\r\nabcd", 400},
    {"list of lengths", "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 3, 3\r\n\r\nabc", 400},
    {"signed length", "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: +3\r\n\r\nabc", 400},
    {"negative length", "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: -3\r\n\r\nabc", 400},
    {"hex length", "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 0x3\r\n\r\nabc", 400},
    {"empty length", "POST / HTTP/1.1\r\nhost: a\r\ncontent-length:\r\n\r\nabc", 400},
    {"huge length", "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 99999999999999999999\r\n\r\nabc", 400},
    {"length over the limit", "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 1000000\r\n\r\nabc", 413},
    {"gzip encoding", "POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: gzip, chunked\r\n\r\n0\r\n\r\n", 501},
    {"chunked twice",
     "POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n", 400},
    {"encoding with a tab",
     "POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: \x0b"
     "chunked\r\n\r\n0\r\n\r\n",
     400},
    {"chunked in HTTP/1.0", "POST / HTTP/1.0\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n", 400},
    {"odd expectation", "POST / HTTP/1.1\r\nhost: a\r\nexpect: gold\r\n\r\n", 417},
    {"empty chunk size", "POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n\r\n", 400},
    {"chunk size of letters", "POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\nxyz\r\n", 400},
    {"signed chunk size", "POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n+3\r\nabc\r\n0\r\n\r\n",
     400},
    {"0x chunk size", "POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n0x3\r\nabc\r\n0\r\n\r\n", 400},
    {"space before chunk size",
     "POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n 3\r\nabc\r\n0\r\n\r\n", 400},
    {"overflowing chunk size",
     "POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n10000000000000003\r\nabc\r\n0\r\n\r\n", 400},
    {"chunk size with bare LF", "POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n3\nabc\r\n0\r\n\r\n",
     400},
    {"chunk longer than said", "POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabcd\r\n0\r\n\r\n",
     400},
    {"chunk ended by bare LF", "POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\n0\r\n\r\n",
     400},
    {"bare CR in an extension",
     "POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n3;a\rb\r\nabc\r\n0\r\n\r\n", 400},
    {"folded trailer", "POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n0\r\n x: y\r\n\r\n", 400},
    {"chunks over the limit",
     "POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\nfffff\r\n" /* and then: */
     "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
     413},
};

const Case kTaken[] = {
    {"plain", "GET / HTTP/1.1\r\nhost: a\r\n\r\n", 200},
    {"HTTP/1.0", "GET / HTTP/1.0\r\n\r\n", 200},
    {"HTTP/1.9", "GET / HTTP/1.9\r\nhost: a\r\n\r\n", 200},
    {"empty lines before", "\r\n\r\nGET / HTTP/1.1\r\nhost: a\r\n\r\n", 200},
    {"unknown method", "BREW /pot HTTP/1.1\r\nhost: a\r\n\r\n", 200},
    {"asterisk", "OPTIONS * HTTP/1.1\r\nhost: a\r\n\r\n", 200},
    {"absolute target", "GET HTTP://b:1?x HTTP/1.1\r\nhost: a\r\n\r\n", 200},
    {"empty host", "GET / HTTP/1.1\r\nhost:\r\n\r\n", 200},
    {"no space after colon", "GET / HTTP/1.1\r\nhost:a\r\nx:\r\n\r\n", 200},
    {"high bytes in a value", "GET / HTTP/1.1\r\nhost: a\r\nx: gr\xc3\xbc\xc3\x9f\r\n\r\n", 200},
    {"equal lengths", "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 3\r\ncontent-length: 3\r\n\r\nabc", 200},
    {"chunked",
     "POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: Chunked\r\n\r\n3;x=\"y\"\r\nabc\r\n00A\r\n0123456789\r\n0\r\nt: "
     "v\r\n\r\n",
     200},
};

ServerOptions small_limits() {
  ServerOptions options;
  options.max_body = {64};
  options.max_header = {1024};
  return options;
}

std::string without_date(std::string text) {
  for (std::size_t at = 0; (at = text.find("date: ", at)) != text.npos;) text.erase(at, text.find("\r\n", at) + 2 - at);
  return text;
}

TEST(Http1, AnswersEveryMalformedRequestAndCloses) {
  for (const Case& c : kRefused) {
    MemoryConnection whole([](auto) { ADD_FAILURE() << "handled"; }, false, small_limits());
    const std::string reply = whole.feed(c.bytes);
    EXPECT_TRUE(reply.starts_with("HTTP/1.1 " + std::to_string(c.status) + " ")) << c.name << ": " << reply;
    EXPECT_NE(reply.find("connection: close"), reply.npos) << c.name;
    EXPECT_EQ(whole.protocol().fate(), Protocol::Fate::close) << c.name;
    EXPECT_EQ(whole.feed("GET / HTTP/1.1\r\nhost: a\r\n\r\n"), "") << c.name << ": nothing is read after it";
  }
}

TEST(Http1, ReadsTheSameHoweverTheBytesAreCut) {
  const auto run = [](std::string_view bytes, std::size_t step) {
    MemoryConnection connection(echo, false, small_limits());
    std::string out;
    for (std::size_t at = 0; at < bytes.size(); at += step) out += connection.feed(bytes.substr(at, step));
    return without_date(out);
  };
  std::vector<Case> all(std::begin(kRefused), std::end(kRefused));
  all.insert(all.end(), std::begin(kTaken), std::end(kTaken));
  for (const Case& c : all) {
    const std::string whole = run(c.bytes, c.bytes.size());
    EXPECT_TRUE(whole.starts_with("HTTP/1.1 " + std::to_string(c.status) + " ")) << c.name << ": " << whole;
    for (const std::size_t step : {1, 2, 3, 7})
      EXPECT_EQ(run(c.bytes, step), whole) << c.name << " in steps of " << step;
  }
}

TEST(Http1, ReadsTargetsHeadersAndBodies) {
  HttpRequest seen;
  MemoryConnection connection(
      [&](const auto& exchange) {
        seen = exchange->request();
        exchange->respond(204, {}, "");
      },
      false);
  connection.feed(
      "POST http://x/a%20b/%C3%BC?q=%20&r HTTP/1.1\r\nHost: h\r\nX-Two:  v w \t\r\ncontent-length: 4\r\n\r\nbody");
  EXPECT_EQ(seen.method, "POST");
  EXPECT_EQ(seen.path, "/a b/ü");
  EXPECT_EQ(seen.query, "q=%20&r");
  EXPECT_EQ(find_header(seen.headers, "x-two"), "v w");
  EXPECT_EQ(seen.body, "body");
  EXPECT_EQ(seen.version, 11);
  connection.feed("GET http://x HTTP/1.1\r\nhost: h\r\n\r\n");
  EXPECT_EQ(seen.path, "/");
}

TEST(Http1, NeverSplitsAResponseForAHandlersHeaders) {
  MemoryConnection connection(
      [](const auto& exchange) {
        exchange->respond(200, {{"x-a", "b\r\nset-cookie: c"}, {"bad name", "d"}, {"content-length", "999"}}, "ok");
      },
      false);
  const std::string reply = connection.feed("GET / HTTP/1.1\r\nhost: h\r\n\r\n");
  EXPECT_NE(reply.find("x-a: b  set-cookie: c\r\n"), reply.npos) << reply;
  EXPECT_EQ(reply.find("bad name"), reply.npos);
  EXPECT_NE(reply.find("content-length: 2\r\n"), reply.npos);
  EXPECT_EQ(reply.find("999"), reply.npos);
}

TEST(Http1, BoundsTheHeader) {
  MemoryConnection connection([](auto) { ADD_FAILURE(); }, false, small_limits());
  const std::string reply = connection.feed("GET / HTTP/1.1\r\nhost: a\r\nx: " + std::string(2000, 'y') + "\r\n\r\n");
  EXPECT_TRUE(reply.starts_with("HTTP/1.1 431 ")) << reply;
  MemoryConnection endless([](auto) { ADD_FAILURE(); }, false, small_limits());
  EXPECT_TRUE(endless.feed(std::string(1025, 'y')).starts_with("HTTP/1.1 431 "));
  ServerOptions roomy;
  roomy.max_header = 1_MiB;
  MemoryConnection many([](auto) { ADD_FAILURE(); }, false, roomy);
  std::string fields = "GET / HTTP/1.1\r\nhost: a\r\n";
  for (int i = 0; i < 300; ++i) fields += "a: b\r\n";
  EXPECT_TRUE(many.feed(fields + "\r\n").starts_with("HTTP/1.1 400 "));
}

TEST(ResponseHead, IsReadStrictly) {
  EXPECT_EQ(parse_response_head("HTTP/1.1 200 OK\r\nA: b\r\n\r\n")->headers[0], Headers::value_type("a", "b"));
  EXPECT_EQ(parse_response_head("HTTP/1.0 404\r\n\r\n")->framing.keep_alive, false);
  for (const auto* bad : {"HTTP/1.1 20 OK\r\n\r\n", "HTTP/2 200 OK\r\n\r\n", "HTTP/1.1 2000 OK\r\n\r\n",
                          "ICY 200 OK\r\n\r\n", "HTTP/1.1 200 OK\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\n"})
    EXPECT_FALSE(parse_response_head(bad)) << bad;
}

TEST(PercentDecode, RefusesWhatIsNotHex) {
  EXPECT_EQ(percent_decode("a%2Fb"), "a/b");
  EXPECT_EQ(percent_decode("%"), std::nullopt);
  EXPECT_EQ(percent_decode("%4"), std::nullopt);
  EXPECT_EQ(percent_decode("%g0"), std::nullopt);
}

}  // namespace
}  // namespace ashlar::net
