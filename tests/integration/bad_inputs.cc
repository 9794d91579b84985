// SPDX-License-Identifier: Apache-2.0
#include "tests/integration/bad_inputs.h"

#include <cmath>
#include <limits>

#include "tests/integration/server_fixture.h"

namespace weir::integration {
namespace {

constexpr int kOk = 0, kInvalid = 3, kDeadline = 4, kNotFound = 5, kExists = 6,
              kExhausted = 8, kPrecondition = 9, kAborted = 10, kRange = 11,
              kUnimplemented = 12;

constexpr uint64_t kMost = std::numeric_limits<uint64_t>::max();
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
constexpr float kInf = std::numeric_limits<float>::infinity();

const std::string kOpen = "/weir.v1.Sessions/OpenSession";
const std::string kGet = "/weir.v1.Sessions/GetSession";
const std::string kList = "/weir.v1.Sessions/ListSessions";
const std::string kClose = "/weir.v1.Sessions/CloseSession";
const std::string kAppend = "/weir.v1.Sessions/Append";
const std::string kStream = "/weir.v1.Sessions/Stream";
const std::string kGenerate = "/weir.v1.Sessions/Generate";
const std::string kFork = "/weir.v1.Sessions/Fork";
const std::string kGetModel = "/weir.v1.Models/GetModel";
const std::string kListModels = "/weir.v1.Models/ListModels";

using Rows = std::vector<BadInput>;

std::string Bytes(const google::protobuf::Message& message) {
  return Framed(message.SerializeAsString());
}

std::string Get(const std::string& id) {
  v1::GetSessionRequest request;
  request.set_session_id(id);
  return Bytes(request);
}

std::string Append(const std::string& id,
                   uint64_t position,
                   const std::string& bytes) {
  return Bytes(MakeAppend(id, position, bytes));
}

// A message with what `set` does to it.
template <typename Message, typename Set>
std::string Make(Set set) {
  Message message;
  set(message);
  return Bytes(message);
}

template <typename Set>
std::string Generate(Set set) {
  return Make<v1::GenerateRequest>([&](v1::GenerateRequest& request) {
    request.set_session_id("a");
    request.set_max_tokens(4);
    set(request);
  });
}

template <typename Set>
std::string Open(Set set) {
  return Make<v1::OpenSessionRequest>([&](v1::OpenSessionRequest& request) {
    request.set_session_id("new");
    request.set_model(kModelName);
    set(request);
  });
}

template <typename Set>
std::string OpenAgain(Set set) {
  return Open([&](v1::OpenSessionRequest& request) {
    request.set_session_id("a");
    set(request);
  });
}

std::string OpenFor(int64_t seconds, int32_t nanos) {
  return Open([&](v1::OpenSessionRequest& request) {
    request.mutable_idle_timeout()->set_seconds(seconds);
    request.mutable_idle_timeout()->set_nanos(nanos);
  });
}

// Field `number` with the varint `value`.
std::string Varint(int number, uint64_t value) {
  std::string out(1, static_cast<char>(number << 3));
  for (; value >= 128; value >>= 7) {
    out += static_cast<char>(value % 128 + 128);
  }
  return out + static_cast<char>(value);
}

// An unknown field that is a group within a group within ...
std::string Groups(int depth) {
  std::string out =
      "\x0a\x01"
      "a";
  for (int n = 0; n < depth; ++n) out += "\x7b";
  for (int n = 0; n < depth; ++n) out += "\x7c";
  return Framed(out);
}

std::string Repeat(const std::string& part, int times) {
  std::string out;
  for (int n = 0; n < times; ++n) out += part;
  return out;
}

void Transport(Rows& rows) {
  const std::string good = Get("a");
  const std::string gzip_zeros = Framed(std::string(50'000, '\x1f'), 1);
  const Rows more = {
      {"A4",
       "/weir.v1.Sessions/Nothing",
       good,
       kUnimplemented,
       "UNKNOWN_METHOD"},
      {"A4", "/../../etc/passwd", good, kUnimplemented, "UNKNOWN_METHOD"},
      {"A4", "", good, kUnimplemented, "UNKNOWN_METHOD"},
      {"A4", "/", good, kUnimplemented, "UNKNOWN_METHOD"},
      {"A4",
       "/weir.v1.Sessions/" + std::string(4000, 'x'),
       good,
       kUnimplemented,
       "UNKNOWN_METHOD"},
      {"A7", kGet, good, kExhausted, "", {{"x-a", std::string(9000, 'a')}}},
      {"A12", kGet, good, kDeadline, "", {{"grpc-timeout", "0n"}}},
      {"A13", kGet, good, kOk, "", {{"grpc-timeout", "garbage"}}},
      {"A13", kGet, good, kOk, "", {{"grpc-timeout", "-5S"}}},
      {"A13", kGet, good, kOk, "", {{"grpc-timeout", "9999999999S"}}},
      {"A14", kGet, good, kOk, "", {{"grpc-timeout", "99999999H"}}},
      {"A23",
       kGet,
       gzip_zeros,
       kUnimplemented,
       "",
       {{"grpc-encoding", "gzip"}}},
      {"A23",
       kGet,
       gzip_zeros,
       kUnimplemented,
       "",
       {{"grpc-encoding", "deflate"}}},
      {"A25", kAppend, FramedAs(100, good), kInvalid, "TRUNCATED_MESSAGE"},
      {"A25", kAppend, std::string("\0\0", 2), kInvalid, "TRUNCATED_MESSAGE"},
      {"A25", kAppend, "", kInvalid, "TRUNCATED_MESSAGE"},
      {"A25", kGenerate, FramedAs(100, good), kInvalid, "TRUNCATED_MESSAGE"},
      // gRPC's core drops it, or makes an empty message of it: as it comes.
      {"A25",
       kAppend,
       Framed("x", 7),
       kInvalid,
       "TRUNCATED_MESSAGE|MISSING_FIELD"},
      {"A26",
       kAppend,
       Repeat(Append("a", 5, "!"), 2),
       kInvalid,
       "UNEXPECTED_MESSAGE"},
      {"A26",
       kGenerate,
       Repeat(Generate([](v1::GenerateRequest&) {}), 2),
       kInvalid,
       "UNEXPECTED_MESSAGE"},
  };
  rows.insert(rows.end(), more.begin(), more.end());
}

void Malformed(Rows& rows) {
  const auto malformed =
      [&](const char* id, const std::string& method, const std::string& body) {
        rows.push_back({id, method, Framed(body), kInvalid, "MALFORMED_PROTO"});
      };
  for (const std::string& method : {kOpen,
                                    kGet,
                                    kList,
                                    kClose,
                                    kAppend,
                                    kGenerate,
                                    kFork,
                                    kGetModel,
                                    kListModels,
                                    kStream}) {
    malformed("B1", method, "\x0f");          // wire type 7
    malformed("B1", method, "\x08\xff\xff");  // an unfinished varint
    malformed("B1", method, std::string(11, '\xff'));
    malformed("B1",
              method,
              "\x0a\x7f"
              "short");                   // a length past the end
    malformed("B1", method, "\x7b");      // a group that does not end
    malformed("B1", method, "\x7c");      // one that does not begin
    malformed("B1", method, "\x7b\x7c");  // a whole one
  }
  for (const std::string text : {"\xff", "\xed\xa0\x80", "\xc0\x80", "a\xe2"}) {
    const std::string field =
        "\x0a" + std::string(1, static_cast<char>(text.size())) + text;
    malformed("B2", kGet, field);
    malformed("B2", kAppend, field);
    malformed("B2", kOpen, field);
  }
  rows.push_back({"B4", kGet, Groups(101), kInvalid, "MALFORMED_PROTO"});
  rows.push_back({"B4", kGet, Groups(5000), kInvalid, "MALFORMED_PROTO"});
}

void Ids(Rows& rows) {
  const auto bad = [&](const char* id, const std::string& session) {
    rows.push_back({id, kGet, Get(session), kInvalid, "BAD_ID"});
    rows.push_back({id, kAppend, Append(session, 0, "x"), kInvalid, "BAD_ID"});
    rows.push_back({id,
                    kOpen,
                    Open([&](v1::OpenSessionRequest& request) {
                      request.set_session_id(session);
                    }),
                    kInvalid,
                    "BAD_ID"});
  };
  bad("B3", std::string("a\0b", 3));
  bad("B3", "a\u202eb");
  bad("B3", "a\u200bb");
  bad("B3", "caf\u00e9");
  bad("B3", "cafe\u0301");
  bad("C24", "A");
  bad("C24", "a/b");
  bad("C24", "../a");
  bad("C24", " a");
  bad("C24", std::string(129, 'a'));
  bad("C24", std::string(4096, 'a'));
  rows.push_back({"C24", kGet, Get("b"), kNotFound, "SESSION_NOT_FOUND"});
  rows.push_back({"C24",
                  kGet,
                  Get(std::string(128, 'z')),
                  kNotFound,
                  "SESSION_NOT_FOUND"});
  rows.push_back({"C24",
                  kFork,
                  Make<v1::ForkRequest>([](v1::ForkRequest& r) {
                    r.set_session_id("a");
                    r.set_new_session_id("No");
                  }),
                  kInvalid,
                  "BAD_ID"});
}

void Fields(Rows& rows) {  // NOLINT(readability-function-size): a table
  const std::string big(1 << 20, 'a');
  const std::string unknown = v1::GetSessionRequest().SerializeAsString() +
                              "\x0a\x01"
                              "a" +
                              Varint(14, 7) + Varint(15, kMost);
  const auto durability = [](int value) {
    return Make<v1::AppendRequest>([&](v1::AppendRequest& request) {
      request = MakeAppend("a", 5, "x");
      request.set_durability(static_cast<v1::Durability>(value));
    });
  };
  const Rows more = {
      {"B5", kAppend, Framed(big + "a"), kExhausted, ""},
      {"B6",
       kGenerate,
       Framed(Repeat(std::string("\x5a\0", 2), 2 << 20)),
       kExhausted,
       ""},
      {"B6",
       kGenerate,
       Framed("\x0a\x01"
              "a" +
              Repeat(std::string("\x5a\0", 2), 500'000)),
       kInvalid,
       "BAD_SAMPLING"},
      {"B7", kGet, Framed(unknown), kOk, ""},
      {"B8", kAppend, durability(99), kInvalid, "BAD_VALUE"},
      {"B8", kAppend, durability(-1), kInvalid, "BAD_VALUE"},
      {"B8",
       kGenerate,
       Generate([](v1::GenerateRequest& request) {
         request.set_durability(static_cast<v1::Durability>(4));
       }),
       kInvalid,
       "BAD_VALUE"},
      {"B9", kOpen, Framed(""), kInvalid, "MISSING_FIELD"},
      {"B9", kGet, Framed(""), kInvalid, "MISSING_FIELD"},
      {"B9", kClose, Framed(""), kInvalid, "MISSING_FIELD"},
      {"B9", kAppend, Framed(""), kInvalid, "MISSING_FIELD"},
      {"B9", kGenerate, Framed(""), kInvalid, "MISSING_FIELD"},
      {"B9", kFork, Framed(""), kInvalid, "MISSING_FIELD"},
      {"B9", kGetModel, Framed(""), kInvalid, "MISSING_FIELD"},
      {"B9", kList, Framed(""), kOk, ""},
      {"B9", kListModels, Framed(""), kOk, ""},
      {"B10",
       kGet,
       Framed(Repeat("\x0a\x01"
                     "b",
                     300'000) +
              "\x0a\x01"
              "a"),
       kOk,
       ""},
      {"B11", kAppend, Append("a", kMost, "x"), kRange, "SESSION_LENGTH"},
      // Without tokens it reads the position.
      {"B11", kAppend, Append("a", kMost, ""), kOk, ""},
      {"B11",
       kAppend,
       Append("a", uint64_t{1} << 63, "x"),
       kRange,
       "SESSION_LENGTH"},
      {"B11",
       kGenerate,
       Generate([](v1::GenerateRequest& request) {
         request.set_expected_position(kMost);
       }),
       kRange,
       "POSITION_GAP"},
      {"B11",
       kFork,
       Make<v1::ForkRequest>([](v1::ForkRequest& request) {
         request.set_session_id("a");
         request.set_new_session_id("b");
         request.set_position(kMost);
       }),
       kRange,
       "POSITION_GAP"},
      // An int32 of -2^63 keeps its low 32 bits: it is 0.
      {"B11", kList, Framed(Varint(1, uint64_t{1} << 63)), kOk, ""},
      {"B11",
       kList,
       Framed(Varint(1, uint64_t{1} << 31)),
       kInvalid,
       "BAD_PAGE"},
      {"B11", kList, Framed(Varint(1, kMost)), kInvalid, "BAD_PAGE"},
      {"B11", kListModels, Framed(Varint(1, kMost)), kInvalid, "BAD_PAGE"},
      {"B11",
       kOpen,
       OpenFor(std::numeric_limits<int64_t>::max(), 0),
       kInvalid,
       "BAD_TTL"},
      {"B11",
       kOpen,
       OpenFor(std::numeric_limits<int64_t>::min(), 0),
       kInvalid,
       "BAD_TTL"},
      {"B11", kOpen, OpenFor(60, 1'000'000'000), kInvalid, "BAD_TTL"},
      {"B11", kOpen, OpenFor(60, -1), kInvalid, "BAD_TTL"},
      {"B11", kOpen, OpenFor(0, 999'999'999), kInvalid, "BAD_TTL"},
      {"B11", kOpen, OpenFor(-5, 0), kInvalid, "BAD_TTL"},
      {"B11", kOpen, OpenFor(604'801, 0), kInvalid, "BAD_TTL"},
  };
  rows.insert(rows.end(), more.begin(), more.end());
}

void Appends(Rows& rows) {  // NOLINT(readability-function-size): a table
  const auto text = [](const std::string& tokens, const std::string& words) {
    return Make<v1::AppendRequest>([&](v1::AppendRequest& request) {
      request = MakeAppend("a", 5, tokens);
      request.set_text(words);
    });
  };
  const auto token = [](uint32_t id) {
    return Make<v1::AppendRequest>([&](v1::AppendRequest& request) {
      request = MakeAppend("a", 5, "good");
      request.add_tokens(id);
    });
  };
  const auto level = [](v1::Durability durability) {
    return Make<v1::AppendRequest>([&](v1::AppendRequest& request) {
      request = MakeAppend("a", 5, "x");
      request.set_durability(durability);
    });
  };
  const Rows more = {
      {"C1", kAppend, Append("nobody", 0, "x"), kNotFound, "SESSION_NOT_FOUND"},
      {"C2", kAppend, Append("a", 0, "hello"), kOk, ""},
      {"C2", kAppend, Append("a", 2, "ll"), kOk, ""},
      {"C3", kAppend, Append("a", 0, "jello"), kAborted, "POSITION_CONFLICT"},
      {"C4", kAppend, Append("a", 6, "x"), kRange, "POSITION_GAP"},
      {"C6",
       kAppend,
       Append("a", 2, "lXo and more"),
       kAborted,
       "POSITION_CONFLICT"},
      {"C10", kAppend, token(256), kInvalid, "TOKEN_OUT_OF_VOCAB"},
      {"C10", kAppend, token(257), kInvalid, "TOKEN_OUT_OF_VOCAB"},
      {"C10", kAppend, token(0xffffffff), kInvalid, "TOKEN_OUT_OF_VOCAB"},
      {"C11", kAppend, Append("a", 5, ""), kOk, ""},
      {"C11", kAppend, Append("a", 0, ""), kOk, ""},
      {"C12",
       kAppend,
       Append("a", 5, std::string(65'537, 'x')),
       kInvalid,
       "TOO_MANY_TOKENS"},
      {"C12",
       kAppend,
       Append("a", 5, std::string(10'000'000, 'x')),
       kExhausted,
       ""},
      {"C13",
       kAppend,
       Append("a", 5, std::string(4092, 'x')),
       kRange,
       "SESSION_LENGTH"},
      {"C17", kOpen, OpenAgain([](v1::OpenSessionRequest&) {}), kOk, ""},
      {"C17",
       kOpen,
       OpenAgain([](v1::OpenSessionRequest& request) { request.set_seed(1); }),
       kOk,
       ""},
      {"C18",
       kOpen,
       OpenAgain([](v1::OpenSessionRequest& request) { request.set_seed(2); }),
       kExists,
       "SESSION_EXISTS"},
      {"C19",
       kFork,
       Make<v1::ForkRequest>([](v1::ForkRequest& request) {
         request.set_session_id("a");
         request.set_new_session_id("b");
         request.set_position(6);
       }),
       kRange,
       "POSITION_GAP"},
      {"C19",
       kFork,
       Make<v1::ForkRequest>([](v1::ForkRequest& request) {
         request.set_session_id("a");
         request.set_new_session_id("empty");
       }),
       kExists,
       "SESSION_EXISTS"},
      {"C21",
       kClose,
       Make<v1::CloseSessionRequest>([](v1::CloseSessionRequest& request) {
         request.set_session_id("gone");
       }),
       kOk,
       ""},
      {"C22", kAppend, Append("busy", 1, "x"), kAborted, "SESSION_BUSY"},
      {"C22", kAppend, Append("busy", 4095, "x"), kAborted, "SESSION_BUSY"},
      {"C23", kAppend, Append("lost", 3, "x"), kPrecondition, "QUARANTINED"},
      {"C23",
       kFork,
       Make<v1::ForkRequest>([](v1::ForkRequest& request) {
         request.set_session_id("lost");
         request.set_new_session_id("b");
       }),
       kPrecondition,
       "QUARANTINED"},
      {"C25", kGet, Get("old"), kNotFound, "SESSION_EXPIRED"},
      {"C25", kAppend, Append("old", 3, "x"), kNotFound, "SESSION_EXPIRED"},
      {"C25",
       kFork,
       Make<v1::ForkRequest>([](v1::ForkRequest& request) {
         request.set_session_id("old");
         request.set_new_session_id("b");
       }),
       kNotFound,
       "SESSION_EXPIRED"},
      {"both", kAppend, text("x", "y"), kInvalid, "CONFLICTING_FIELDS"},
      {"D11",
       kAppend,
       text("", std::string(65'537, 'x')),
       kInvalid,
       "TOO_MANY_TOKENS"},
      {"durability",
       kAppend,
       level(v1::DURABILITY_LOCAL),
       kPrecondition,
       "DURABILITY_UNAVAILABLE"},
      {"durability",
       kAppend,
       level(v1::DURABILITY_SHARED),
       kPrecondition,
       "DURABILITY_UNAVAILABLE"},
      {"request id",
       kClose,
       Make<v1::CloseSessionRequest>([](v1::CloseSessionRequest& request) {
         request.set_session_id("a");
         request.set_request_id(std::string(129, 'r'));
       }),
       kInvalid,
       "BAD_VALUE"},
      {"page token",
       kList,
       Make<v1::ListSessionsRequest>([](v1::ListSessionsRequest& request) {
         request.set_page_token("Not one");
       }),
       kInvalid,
       "BAD_PAGE"},
  };
  rows.insert(rows.end(), more.begin(), more.end());
}

void Sampling(Rows& rows) {  // NOLINT(readability-function-size): a table
  const auto bad = [&](const char* id, auto set) {
    rows.push_back({id, kGenerate, Generate(set), kInvalid, "BAD_SAMPLING"});
  };
  using Request = v1::GenerateRequest;
  for (float value : {kNan, kInf, -kInf, -1.0f, 1e38f, 100.5f}) {
    bad("D1", [&](Request& request) { request.set_temperature(value); });
  }
  for (float value : {0.0f, -0.0f, 1.0001f, kNan, -1.0f}) {
    bad("D2", [&](Request& request) { request.set_top_p(value); });
  }
  for (int32_t value : {-1, std::numeric_limits<int32_t>::min()}) {
    bad("D2", [&](Request& request) { request.set_top_k(value); });
  }
  for (float value : {-0.1f, 1.1f, kNan}) {
    bad("D2", [&](Request& request) { request.set_min_p(value); });
  }
  for (float value : {0.0f, kNan, 1e30f, -2.0f}) {
    bad("D3", [&](Request& request) { request.set_repetition_penalty(value); });
  }
  for (int count : {17, 10'000}) {
    bad("D6", [&](Request& request) {
      for (int n = 0; n < count; ++n) request.add_stop_strings("x");
    });
  }
  for (size_t bytes : {size_t{0}, size_t{257}, size_t{1'000'000}}) {
    bad("D6", [&](Request& request) {
      request.add_stop_strings(std::string(bytes, 'x'));
    });
  }
  bad("D5", [](Request& request) { request.add_stop_tokens(256); });
  bad("D5", [](Request& request) {
    for (int n = 0; n < 65; ++n) request.add_stop_tokens(1);
  });
  const std::string a =
      "\x0a\x01"
      "a";
  const Rows more = {
      // top_k of 2^31, as a writer that knows no int32 would send it.
      {"D2",
       kGenerate,
       Framed(a + Varint(6, uint64_t{1} << 31)),
       kInvalid,
       "BAD_SAMPLING"},
      {"D6",
       kGenerate,
       Framed(a + "\x5a\x01\xff"),
       kInvalid,
       "MALFORMED_PROTO"},
      {"empty",
       kGenerate,
       Generate([](Request& request) { request.set_session_id("empty"); }),
       kPrecondition,
       "EMPTY_SESSION"},
      {"C1",
       kGenerate,
       Generate([](Request& request) { request.set_session_id("nobody"); }),
       kNotFound,
       "SESSION_NOT_FOUND"},
      {"C22",
       kGenerate,
       Generate([](Request& request) { request.set_session_id("busy"); }),
       kAborted,
       "SESSION_BUSY"},
      {"C25",
       kGenerate,
       Generate([](Request& request) { request.set_session_id("old"); }),
       kNotFound,
       "SESSION_EXPIRED"},
      {"D4",
       kGenerate,
       Generate([](Request& request) { request.set_max_tokens(0); }),
       kOk,
       ""},
      // A field of no name: there is no n and no best_of to ask for.
      {"D9", kGenerate, Framed(a + Varint(15, 1'000'000)), kOk, ""},
      {"C23",
       kGenerate,
       Generate([](Request& request) { request.set_session_id("lost"); }),
       kPrecondition,
       "QUARANTINED"},
      {"behind",
       kGenerate,
       Generate([](Request& request) { request.set_expected_position(2); }),
       kAborted,
       "POSITION_CONFLICT"},
      {"request id",
       kGenerate,
       Generate([](Request& request) {
         request.set_request_id(std::string(129, 'r'));
       }),
       kInvalid,
       "BAD_VALUE"},
  };
  rows.insert(rows.end(), more.begin(), more.end());
}

void Names(Rows& rows) {
  for (const std::string name :
       {"../fake-model", "other", "FAKE-MODEL", "fake-model\u200b"}) {
    rows.push_back({"F16",
                    kGetModel,
                    Make<v1::GetModelRequest>(
                        [&](v1::GetModelRequest& r) { r.set_name(name); }),
                    kNotFound,
                    "MODEL_NOT_FOUND"});
    rows.push_back({"F16",
                    kOpen,
                    Open([&](v1::OpenSessionRequest& request) {
                      request.set_model(name);
                    }),
                    kNotFound,
                    "MODEL_NOT_FOUND"});
  }
  rows.push_back({"F16",
                  kOpen,
                  Open([&](v1::OpenSessionRequest& request) {
                    request.set_model(std::string(1'000'000, 'm'));
                  }),
                  kNotFound,
                  "MODEL_NOT_FOUND"});
}

}  // namespace

std::vector<BadInput> BadInputs() {
  Rows rows;
  Transport(rows);
  Malformed(rows);
  Ids(rows);
  Fields(rows);
  Appends(rows);
  Sampling(rows);
  Names(rows);
  return rows;
}

}  // namespace weir::integration
