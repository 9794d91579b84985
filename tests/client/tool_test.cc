// SPDX-License-Identifier: Apache-2.0
//
// The whole tool, in this process, against the fake server: what it prints
// where, its JSON, its exit codes.
#include "client/tool.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <numbers>
#include <sstream>
#include <thread>

#include "absl/synchronization/notification.h"
#include "client/signals.h"
#include "tests/client/fake_server.h"

namespace weir::client {
namespace {

using testing::AllOf;
using testing::ContainsRegex;
using testing::HasSubstr;
using testing::Not;
using testing::StartsWith;
using Json = nlohmann::json;

struct Result {
  int code = 0;
  std::string out;
  std::string err;

  std::vector<Json> lines() const {
    std::vector<Json> lines;
    std::istringstream stream(out);
    for (std::string line; std::getline(stream, line);) {
      lines.push_back(Json::parse(line));
    }
    return lines;
  }
};

std::string ReadFile(FILE* file) {
  std::string text;
  std::rewind(file);
  char block[4096];
  while (const size_t got = std::fread(block, 1, sizeof(block), file)) {
    text.append(block, got);
  }
  return text;
}

class ToolTest : public testing::Test {
 protected:
  ToolTest() {
    directory_ = std::filesystem::path(testing::TempDir()) /
                 ("weir-tool-" + std::to_string(getpid()));
    std::filesystem::create_directories(directory_);
    unsetenv("WEIR_SERVER");
    unsetenv("WEIR_METRICS");
  }
  ~ToolTest() override { std::filesystem::remove_all(directory_); }

  Result Run(std::vector<std::string> arguments,
             const std::string& input = "",
             const std::function<void(Tool&)>& meddle = nullptr) {
    FILE* in = std::tmpfile();
    std::fwrite(input.data(), 1, input.size(), in);
    std::rewind(in);
    FILE* out = std::tmpfile();
    FILE* err = std::tmpfile();
    std::vector<const char*> argv = {
        "weir", "--server", server_address_.data()};
    for (const std::string& argument : arguments) {
      argv.push_back(argument.c_str());
    }
    Result result;
    {
      Tool tool(fileno(in), out, err);
      if (meddle) meddle(tool);
      result.code = tool.Run(static_cast<int>(argv.size()), argv.data());
    }
    result.out = ReadFile(out);
    result.err = ReadFile(err);
    std::fclose(in);
    std::fclose(out);
    std::fclose(err);
    return result;
  }

  Result RunInterrupted(std::vector<std::string> arguments, int append);

  std::string Write(const std::string& name, const std::string& text) {
    const std::string path = directory_ / name;
    std::ofstream(path, std::ios::binary) << text;
    return path;
  }
  std::string Read(const std::string& path) {
    std::ifstream file(path, std::ios::binary);
    return {std::istreambuf_iterator<char>(file), {}};
  }

  FakeServer server_;
  std::string server_address_ = server_.target();
  std::filesystem::path directory_;
};

std::vector<uint32_t> WithStart(const std::string& text) {
  std::vector<uint32_t> tokens = {0};
  for (const char c : text) tokens.push_back(static_cast<uint8_t>(c));
  return tokens;
}

std::string SomeText(size_t size) {
  std::string text;
  for (size_t i = 0; i < size; ++i) text += static_cast<char>(i * 131 % 256);
  return text;
}

TEST_F(ToolTest, StreamSendsTheStartTokenThenTheDocument) {
  const std::string text = SomeText(3000);

  const Result result = Run({"stream", Write("doc", text), "--session", "s"});

  EXPECT_EQ(result.code, kExitOk) << result.err;
  EXPECT_EQ(server_.log("s"), WithStart(text));
  EXPECT_EQ(server_.calls("Append"), 12) << "3,001 tokens by 256";
  EXPECT_THAT(result.out,
              AllOf(StartsWith("session s is at position 3,001: 3,001 tokens"),
                    HasSubstr(" bits per byte\n")));
}

TEST_F(ToolTest, StreamsJsonIsLinesAndASummaryWithTheSums) {
  const std::string text = SomeText(1000);

  const Result result = Run({"--json", "stream", "-"}, text);

  ASSERT_EQ(result.code, kExitOk) << result.err;
  const std::vector<Json> lines = result.lines();
  ASSERT_GE(lines.size(), 2u);
  EXPECT_EQ(lines[0]["event"], "open");
  EXPECT_EQ(lines[0]["model"], "fake");
  const Json& summary = lines.back();
  EXPECT_EQ(summary["event"], "summary");
  EXPECT_EQ(summary["session_id"], lines[0]["session_id"]);
  EXPECT_EQ(summary["position"], 1001);
  EXPECT_EQ(summary["tokens"], 1001);
  EXPECT_EQ(summary["scored_tokens"], 1000);
  EXPECT_EQ(summary["resumes"], 0);
  double sum = 0;
  const std::vector<uint32_t> tokens = WithStart(text);
  for (size_t i = 1; i < tokens.size(); ++i) {
    sum += FakeServer::ScoreAt(i, tokens[i]);
  }
  EXPECT_NEAR(summary["sum_log_prob"].get<double>(), sum, 1e-9);
  EXPECT_NEAR(summary["bits_per_byte"].get<double>(),
              -sum / 1000 / std::numbers::ln2,
              1e-12);
  EXPECT_TRUE(server_.is_open(summary["session_id"])) << "it stays open";
}

TEST_F(ToolTest, StreamResumesAndCountsTheWholeDocument) {
  const std::string text = SomeText(2000);
  const std::string path = Write("doc", text);
  const Result whole = Run({"--json", "stream", path, "--session", "whole"});
  ASSERT_EQ(
      Run({"stream", Write("half", text.substr(0, 900)), "--session", "s"})
          .code,
      kExitOk);

  const Result result =
      Run({"--json", "stream", path, "--session", "s", "--resume"});

  ASSERT_EQ(result.code, kExitOk) << result.err;
  EXPECT_EQ(server_.log("s"), WithStart(text));
  const Json summary = result.lines().back();
  EXPECT_EQ(summary["tokens"], 1100);
  EXPECT_EQ(summary["duplicate_tokens"], 256) << "the last append again";
  EXPECT_EQ(summary["scored_tokens"], 2000);
  EXPECT_NEAR(summary["bits_per_byte"].get<double>(),
              whole.lines().back()["bits_per_byte"].get<double>(),
              1e-12);
  EXPECT_EQ(Run({"stream", path, "--session", "s", "--resume"}).code, kExitOk)
      << "nothing is left";
  EXPECT_EQ(server_.log("s"), WithStart(text));
}

TEST_F(ToolTest, StreamResumesFromAPipeAndRefusesAnotherDocument) {
  const std::string text = SomeText(2000);
  ASSERT_EQ(Run({"stream", "-", "--session", "s"}, text.substr(0, 900)).code,
            kExitOk);
  ASSERT_EQ(Run({"stream", "-", "--session", "s", "--resume"}, text).code,
            kExitOk);
  EXPECT_EQ(server_.log("s"), WithStart(text));

  std::string other = text + "more";
  other[1950] ^= 1;
  const Result conflict =
      Run({"--json", "stream", "-", "--session", "s", "--resume"}, other);
  EXPECT_EQ(conflict.code, kExitFailed);
  EXPECT_EQ(conflict.lines().back()["reason"], "POSITION_CONFLICT");
  EXPECT_EQ(conflict.lines().back()["metadata"]["position"], "2001");
  EXPECT_EQ(server_.log("s"), WithStart(text));

  const Result shorter =
      Run({"stream", "-", "--session", "s", "--resume"}, text.substr(0, 1950));
  EXPECT_EQ(shorter.code, kExitFailed);
  EXPECT_THAT(shorter.err, HasSubstr("ends at position 1951"));
  EXPECT_EQ(Run({"stream", "-", "--session", "new", "--resume"}, text).code,
            kExitFailed)
      << "there is nothing to resume";
  EXPECT_FALSE(server_.is_open("new"));
}

TEST_F(ToolTest, StreamAppendsToAnOpenSessionWithoutAStartToken) {
  ASSERT_EQ(Run({"stream", "-", "--session", "s"}, "one").code, kExitOk);
  ASSERT_EQ(Run({"stream", "-", "--session", "s"}, " two").code, kExitOk);
  EXPECT_EQ(server_.log("s"), WithStart("one two"));
  ASSERT_EQ(
      Run({"stream", "-", "--session", "t", "--no-start-token"}, "abc").code,
      kExitOk);
  EXPECT_EQ(server_.log("t"), (std::vector<uint32_t>{'a', 'b', 'c'}));
}

TEST_F(ToolTest, StreamOfIdsAndWhatIsNotAnId) {
  ASSERT_EQ(
      Run({"stream", "-", "--ids", "--session", "s"}, "1 22\n\t255\n").code,
      kExitOk);
  EXPECT_EQ(server_.log("s"), (std::vector<uint32_t>{0, 1, 22, 255}));

  const Result bad = Run({"stream", "-", "--ids", "--session", "t"}, "1 x");
  EXPECT_EQ(bad.code, kExitFailed);
  EXPECT_THAT(bad.err, HasSubstr("byte 2"));
  EXPECT_EQ(Run({"stream", "-", "--ids"}, "99999999999").code, kExitFailed);
}

TEST_F(ToolTest, StreamSurvivesCutsAndSaysSo) {
  server_.set_plan([](std::string_view call, int nth) {
    return call == "Append" && (nth == 2 || nth == 6)
               ? Fault{.when = Fault::When::kAfter}
               : Fault();
  });
  const std::string text = SomeText(2000);

  const Result result = Run({"--json", "stream", "-", "--session", "s"}, text);

  ASSERT_EQ(result.code, kExitOk) << result.err;
  EXPECT_EQ(server_.log("s"), WithStart(text));
  EXPECT_EQ(result.lines().back()["resumes"], 2);
  EXPECT_EQ(result.lines().back()["scored_tokens"], 2000);
}

TEST_F(ToolTest, StreamDrawsAPlotAndClosesWhenAsked) {
  const std::string svg = directory_ / "out.svg";

  const Result result =
      Run({"stream", "-", "--session", "s", "--plot", svg, "--close"},
          SomeText(5000));

  EXPECT_EQ(result.code, kExitOk) << result.err;
  EXPECT_THAT(Read(svg), AllOf(StartsWith("<svg "), HasSubstr("polyline")));
  EXPECT_FALSE(server_.is_open("s"));
}

TEST_F(ToolTest, APlotThatCannotBeWrittenIsSaidBeforeTheStream) {
  const Result result = Run(
      {"stream", "-", "--session", "s", "--plot", "/nonexistent/x.svg"}, "abc");
  EXPECT_EQ(result.code, kExitFailed);
  EXPECT_THAT(result.err,
              HasSubstr("cannot write /nonexistent/x.svg: No such file"));
  EXPECT_FALSE(server_.is_open("s"));
}

TEST_F(ToolTest, AMissingDocumentLeavesNoSession) {
  const Result result = Run({"stream", directory_ / "none", "--session", "s"});
  EXPECT_EQ(result.code, kExitFailed);
  EXPECT_THAT(result.err, HasSubstr("No such file"));
  EXPECT_FALSE(server_.is_open("s"));
  EXPECT_EQ(Run({"stream", directory_, "--session", "s"}).code, kExitFailed);
}

TEST_F(ToolTest, GenerateContinuesASessionOrATemporaryOne) {
  ASSERT_EQ(Run({"stream", "-", "--session", "s"}, "abc").code, kExitOk);
  std::string expected;
  for (uint64_t at = 4; at < 14; ++at) {
    expected += static_cast<char>(FakeServer::GeneratedAt(at));
  }

  const Result result =
      Run({"generate", "--session", "s", "--max-tokens", "10"});
  EXPECT_EQ(result.code, kExitOk) << result.err;
  EXPECT_EQ(result.out, expected + "\n");
  EXPECT_TRUE(server_.is_open("s"));

  const Result temporary = Run({"generate",
                                "--prompt",
                                "xyz",
                                "--json",
                                "--max-tokens",
                                "3",
                                "--log-probs"});
  ASSERT_EQ(temporary.code, kExitOk) << temporary.err;
  const std::vector<Json> lines = temporary.lines();
  ASSERT_EQ(lines.size(), 4u);
  EXPECT_EQ(lines[0]["event"], "tokens");
  EXPECT_EQ(lines[0]["position"], 5);
  EXPECT_EQ(lines[0]["tokens"][0], FakeServer::GeneratedAt(4));
  EXPECT_EQ(lines[0]["log_probs"], Json::array({-1.0}));
  EXPECT_EQ(lines[3]["event"], "end");
  EXPECT_EQ(lines[3]["tokens"], 3);
  EXPECT_EQ(lines[3]["finish_reason"], "length");
  EXPECT_FALSE(server_.is_open(lines[3]["session_id"]));
}

TEST_F(ToolTest, GenerateTakesAPromptOfAnyLength) {
  ASSERT_EQ(Run({"stream", "-", "--session", "s"}, "").code, kExitOk);
  const std::string text = SomeText(70'000);

  const Result result =
      Run({"generate", "--session", "s", "--prompt", "-", "--max-tokens", "0"},
          text);

  EXPECT_EQ(result.code, kExitOk) << result.err;
  EXPECT_EQ(server_.log("s"), WithStart(text));
}

TEST_F(ToolTest, GenerateResumesOverACutWithoutDoublingText) {
  ASSERT_EQ(Run({"stream", "-", "--session", "s"}, "abc").code, kExitOk);
  server_.set_plan([](std::string_view call, int nth) {
    return call == "Generate" && nth % 4 == 0
               ? Fault{.when = Fault::When::kAfter}
               : Fault();
  });
  std::string expected;
  for (uint64_t at = 4; at < 24; ++at) {
    expected += static_cast<char>(FakeServer::GeneratedAt(at));
  }
  EXPECT_EQ(Run({"generate", "--session", "s", "--max-tokens", "20"}).out,
            expected + "\n");
}

TEST_F(ToolTest, ChatAnswersLinesAndObeysCommands) {
  const Result result =
      Run({"chat", "--session", "c", "--max-tokens", "2"},
          "hi\n/position\n/fork d\n/fork d\n/nonsense\n\n/quit\nnever read\n");

  EXPECT_EQ(result.code, kExitOk) << result.err;
  std::string answer;
  for (uint64_t at = 4; at < 8; ++at) {
    answer += static_cast<char>(FakeServer::GeneratedAt(at));
  }
  EXPECT_THAT(result.out,
              AllOf(StartsWith(answer.substr(0, 2) + "\n6\n"),
                    HasSubstr(" chat --session d\n"),
                    HasSubstr("/quit"),
                    HasSubstr("\n" + answer.substr(2) + "\n")));
  EXPECT_THAT(result.err, HasSubstr("SESSION_EXISTS"));
  EXPECT_EQ(server_.log("d").size(), 6u);
  std::vector<uint32_t> log = WithStart("hi\n");
  for (const char c : answer) log.push_back(c);
  EXPECT_EQ(server_.log("c"), log);
}

TEST_F(ToolTest, ChatEndsWithARefusalThatIsNoSlipAndSaysItOnce) {
  server_.set_plan([](std::string_view call, int) {
    if (call != "Fork") return Fault();
    return Fault{.when = Fault::When::kBefore,
                 .status = ToGrpc(Refusal(grpc::StatusCode::FAILED_PRECONDITION,
                                          "QUARANTINED"))};
  });

  const Result result = Run({"chat"}, "/fork\n/position\n");

  EXPECT_EQ(result.code, kExitFailed);
  EXPECT_EQ(result.out, "");
  EXPECT_EQ(std::count(result.err.begin(), result.err.end(), '\n'), 1)
      << result.err;
}

TEST_F(ToolTest, ChatEndsWithItsInputAndClosesItsOwnSession) {
  EXPECT_EQ(Run({"chat", "--max-tokens", "1"}, "no newline").code, kExitOk);
  EXPECT_EQ(Json::parse(Run({"--json", "session", "ls"}).out)["sessions"],
            Json::array());
}

TEST_F(ToolTest, SessionCommandsAsTablesAndAsJson) {
  for (const char* id : {"a", "b", "c"}) {
    ASSERT_EQ(Run({"stream", "-", "--session", id}, SomeText(1999)).code,
              kExitOk);
  }

  EXPECT_THAT(Run({"session", "ls"}).out,
              StartsWith("ID  MODEL  POSITION  BITS/TOKEN  IDLE  STATE\n"
                         "a   fake      2,000 "));
  EXPECT_EQ(Run({"session", "ls", "--ids"}).out, "a\nb\nc\n");
  const Json list = Json::parse(Run({"session", "ls", "--json"}).out);
  ASSERT_EQ(list["sessions"].size(), 3u) << "the fake's pages hold two";
  EXPECT_EQ(list["sessions"][2]["session_id"], "c");
  EXPECT_EQ(list["sessions"][2]["position"], 2000);
  EXPECT_EQ(list["sessions"][2]["state"], "idle");

  const Json show = Json::parse(Run({"--json", "session", "show", "a"}).out);
  EXPECT_EQ(show["scored_tokens"], 1999);
  EXPECT_GT(show["bits_per_token"], 0);
  EXPECT_THAT(Run({"session", "show", "a"}).out,
              HasSubstr("position      2,000 tokens\n"));

  const Json fork =
      Json::parse(Run({"--json", "session", "fork", "a", "z"}).out);
  EXPECT_EQ(fork["session_id"], "z");
  EXPECT_EQ(fork["forked_from"], "a");
  EXPECT_EQ(Run({"session", "fork", "a"}).code, kExitOk);

  EXPECT_EQ(Run({"session", "close", "a", "nobody"}).out,
            "session a closed at position 2,000\nsession nobody was not "
            "open\n");
  EXPECT_FALSE(server_.is_open("a"));
  EXPECT_EQ(Json::parse(Run({"--json", "session", "close", "b"}).out)["closed"],
            true);
}

TEST_F(ToolTest, AForkThatIsNotAnsweredInTimeHasANameAllTheSame) {
  ASSERT_EQ(Run({"stream", "-", "--session", "a"}, "abc").code, kExitOk);
  server_.set_plan([](std::string_view call, int) {
    return call == "Fork" ? Fault{.when = Fault::When::kHang} : Fault();
  });

  const Result result = Run({"--timeout", "0.2", "session", "fork", "a"});

  EXPECT_EQ(result.code, kExitFailed);
  EXPECT_THAT(result.err, HasSubstr("--timeout sets the limit"));
  server_.set_plan(nullptr);
  std::istringstream ids(Run({"session", "ls", "--ids"}).out);
  std::string copy;
  ASSERT_TRUE(ids >> copy);
  if (copy == "a") ids >> copy;
  EXPECT_THAT(result.err, HasSubstr("weir session show " + copy + "\n"));
}

TEST_F(ToolTest, ModelsAsATableAndAsJson) {
  EXPECT_THAT(Run({"models"}).out,
              AllOf(HasSubstr("fake  gated_deltanet   7,500,000"),
                    HasSubstr("584 KiB")));
  EXPECT_EQ(Run({"models", "--names"}).out, "fake\n");
  const Json json = Json::parse(Run({"--json", "models"}).out)["models"][0];
  EXPECT_EQ(json["name"], "fake");
  EXPECT_EQ(json["start_token"], 0);
  EXPECT_EQ(json["takes_text"], true);
  EXPECT_EQ(json["positions_max"], 0);
}

TEST_F(ToolTest, ModelsSayHowLongASessionOfThemMayBe) {
  EXPECT_THAT(Run({"models"}).out, ContainsRegex("584 KiB +- +- +text\n"));
  v1::Model model;
  model.set_name("short");
  model.set_positions_max(2'048);
  server_.set_model(model);

  EXPECT_THAT(Run({"models"}).out, ContainsRegex(" - +2,048 +tokens\n"));
  EXPECT_EQ(
      Json::parse(Run({"--json", "models"}).out)["models"][0]["positions_max"],
      2'048);
}

TEST_F(ToolTest, AModelWithoutTextTakesIdsAndSaysBitsPerToken) {
  v1::Model model;
  model.set_name("ids");
  model.set_vocabulary(50'000);
  server_.set_model(model);

  const Result result =
      Run({"--json", "stream", "-", "--session", "s"}, "7 8 9");
  ASSERT_EQ(result.code, kExitOk) << result.err;
  EXPECT_TRUE(result.lines().back().contains("bits_per_token"));
  EXPECT_FALSE(result.lines().back().contains("bits_per_byte"));
  EXPECT_EQ(server_.log("s"), (std::vector<uint32_t>{7, 8, 9}));
  EXPECT_THAT(Run({"generate", "--session", "s", "--max-tokens", "1"}).out,
              HasSubstr(std::to_string(FakeServer::GeneratedAt(3))));
  EXPECT_EQ(Run({"chat"}, "hi\n").code, kExitFailed);
}

TEST_F(ToolTest, ErrorsAreOneLineWithReasonAndHint) {
  const Result result = Run({"generate", "--session", "nobody"});
  EXPECT_EQ(result.code, kExitFailed);
  EXPECT_EQ(result.out, "");
  EXPECT_EQ(result.err,
            "weir: refused: SESSION_NOT_FOUND [SESSION_NOT_FOUND]; weir "
            "session ls shows the open ones\n");

  const Json error = Run({"--json", "session", "show", "nobody"}).lines().at(0);
  EXPECT_EQ(error["event"], "error");
  EXPECT_EQ(error["code"], "NOT_FOUND");
  EXPECT_EQ(error["reason"], "SESSION_NOT_FOUND");
  EXPECT_EQ(error["metadata"]["sessionId"], "nobody");
}

TEST_F(ToolTest, ARefusalByTheDeadlineNamesTheFlag) {
  server_.set_plan([](std::string_view call, int) {
    if (call != "Append") return Fault();
    return Fault{.when = Fault::When::kBefore,
                 .status = ToGrpc(Refusal(grpc::StatusCode::DEADLINE_EXCEEDED,
                                          "DEADLINE_IN_QUEUE"))};
  });
  EXPECT_THAT(Run({"generate", "--prompt", "abc"}).err,
              HasSubstr("[DEADLINE_IN_QUEUE]; --timeout "));
}

TEST_F(ToolTest, AQuarantinedSessionIsSaidAtOnceWithWhatToDo) {
  const std::string path = Write("doc", SomeText(4000));
  ASSERT_EQ(Run({"stream", path, "--session", "s"}).code, kExitOk);
  server_.Quarantine("s");

  const Result result = Run({"stream", path, "--session", "s"});

  EXPECT_EQ(result.code, kExitFailed);
  EXPECT_THAT(result.err, HasSubstr("[QUARANTINED]; its state is of no more"));
  EXPECT_THAT(Run({"session", "show", "s"}).out, HasSubstr("quarantined"));
}

TEST_F(ToolTest, AStreamRefusedForGoodDoesNotSayHowToGoOn) {
  const std::string path = Write("doc", SomeText(4000));
  server_.set_plan([](std::string_view call, int nth) {
    if (call != "Append" || nth != 5) return Fault();
    return Fault{.when = Fault::When::kBefore,
                 .status = ToGrpc(
                     Refusal(grpc::StatusCode::INTERNAL, "NON_FINITE_STATE"))};
  });

  const Result result = Run({"stream", path, "--session", "s"});

  EXPECT_EQ(result.code, kExitFailed);
  EXPECT_THAT(result.err, HasSubstr("stream again into a new one"));
  EXPECT_THAT(result.err, Not(HasSubstr("--resume")));
}

TEST_F(ToolTest, UsageErrorsAreTwoAndHelpAndVersionAreNone) {
  for (const std::vector<std::string>& arguments :
       std::vector<std::vector<std::string>>{{},
                                             {"nonsense"},
                                             {"stream"},
                                             {"stream", "-", "--resume"},
                                             {"stream", "-", "--window", "0"},
                                             {"generate", "--top-p", "2"},
                                             {"generate", "--temperature", "x"},
                                             {"session"},
                                             {"completion", "tcsh"},
                                             {"--timeout", "0", "models"}}) {
    const Result result = Run(arguments);
    EXPECT_EQ(result.code, kExitUsage);
    EXPECT_EQ(std::count(result.err.begin(), result.err.end(), '\n'), 1)
        << result.err;
    EXPECT_EQ(result.out, "");
  }
  EXPECT_THAT(Run({"strem", "doc"}).err,
              StartsWith("weir: strem is no command"));
  EXPECT_THAT(Run({"--foo"}).err, StartsWith("weir: --foo is no option"));
  EXPECT_THAT(Run({"--help"}).out, HasSubstr("Exit codes: 0 done"));
  EXPECT_EQ(Run({"stream", "--help"}).code, kExitOk);
  EXPECT_THAT(Run({"--version"}).out, StartsWith("weir 0."));
}

TEST_F(ToolTest, AServerThatIsNotThereIsSaidAtOnce) {
  server_address_ = "127.0.0.1:1";
  const Result result = Run({"models"});
  EXPECT_EQ(result.code, kExitFailed);
  EXPECT_THAT(result.err, HasSubstr("cannot reach 127.0.0.1:1"));
  EXPECT_THAT(result.err, HasSubstr("--server"));
}

TEST_F(ToolTest, TopLooksForThePageAtTheServersHostAndSaysWhereToPointIt) {
  server_address_ = "nosuchhost.invalid:7070";
  const Result top = Run({"top", "--once"});
  EXPECT_EQ(top.code, kExitFailed);
  EXPECT_THAT(top.err,
              AllOf(HasSubstr("nosuchhost.invalid:9470"),
                    HasSubstr("--metrics HOST:PORT"),
                    Not(HasSubstr("--server"))));
}

TEST_F(ToolTest, AServerOnThisMachineIsReachedWithoutTheProxy) {
  setenv("http_proxy", "http://127.0.0.1:1", 1);
  const std::string port = server_address_.substr(server_address_.find(':'));
  for (const char* host : {"127.0.0.1", "localhost", "dns:///127.0.0.1"}) {
    server_address_ = host + port;
    const Result result = Run({"models", "--names"});
    EXPECT_EQ(result.out, "fake\n") << host << ": " << result.err;
  }
  unsetenv("http_proxy");
}

// Runs a tool and interrupts it at the n-th append from now.
Result ToolTest::RunInterrupted(std::vector<std::string> arguments,
                                int append) {
  std::thread interrupter;
  absl::Notification reached;
  server_.set_plan([&](std::string_view call, int nth) {
    if (call != "Append" || nth != append) return Fault();
    reached.Notify();
    return Fault{.when = Fault::When::kHang};
  });
  Result result = Run(std::move(arguments), "", [&](Tool& tool) {
    interrupter = std::thread([&, cancellation = tool.cancellation()] {
      reached.WaitForNotification();
      cancellation->Cancel();
    });
  });
  interrupter.join();
  server_.set_plan(nullptr);
  return result;
}

TEST_F(ToolTest, AnInterruptEndsAStreamAndSaysHowToGoOn) {
  const std::string path = Write("doc", SomeText(4000));

  const Result result = RunInterrupted({"stream", path, "--session", "s"}, 5);

  EXPECT_EQ(result.code, kExitInterrupted);
  EXPECT_THAT(result.err,
              HasSubstr("weir --server " + server_address_ + " stream " + path +
                        " --session s --resume\n"));
  EXPECT_EQ(Run({"stream", path, "--session", "s", "--resume"}).code, kExitOk);
  EXPECT_EQ(server_.log("s"), WithStart(SomeText(4000)));
}

TEST_F(ToolTest, ASecondDocumentIsResumedFromWhereItBegan) {
  const std::string first = SomeText(700);
  const std::string second = SomeText(4000);
  const std::string path = Write("the second", second);
  ASSERT_EQ(Run({"stream", "-", "--session", "s"}, first).code, kExitOk);

  const Result result = RunInterrupted({"stream", path, "--session", "s"}, 5);

  EXPECT_THAT(result.err,
              HasSubstr("'" + path + "' --session s --resume --begin 701\n"));
  ASSERT_EQ(
      Run({"stream", path, "--session", "s", "--resume", "--begin", "701"})
          .code,
      kExitOk);
  EXPECT_EQ(server_.log("s"), WithStart(first + second));
  EXPECT_EQ(
      Run({"stream", path, "--session", "s", "--resume", "--begin", "9999"})
          .code,
      kExitFailed);
}

TEST_F(ToolTest, AResumeWithAShorterDocumentSaysWhatIsWrong) {
  ASSERT_EQ(Run({"stream", "-", "--session", "s"}, SomeText(2000)).code,
            kExitOk);
  EXPECT_THAT(Run({"stream", "-", "--session", "s", "--resume"}, "abc").err,
              HasSubstr("ends before position 1745, but the session is at "
                        "2001: it has read something else"));
}

TEST_F(ToolTest, AReaderThatGoesAwayEndsTheToolQuietly) {
  int ends[2];
  ASSERT_EQ(pipe(ends), 0);
  close(ends[0]);
  signal(SIGPIPE, SIG_IGN);
  FILE* out = fdopen(ends[1], "w");
  FILE* err = std::tmpfile();
  {
    Tool tool(0, out, err);
    const char* argv[] = {"weir",
                          "--server",
                          server_address_.c_str(),
                          "generate",
                          "--prompt",
                          "abc"};
    EXPECT_EQ(tool.Run(6, argv), kExitBrokenPipe);
  }
  EXPECT_EQ(ReadFile(err), "");
  std::fclose(out);
  std::fclose(err);
  EXPECT_EQ(Run({"session", "ls", "--ids"}).out, "") << "its session is closed";
}

// Two interrupts, the second after the first has been seen; 0 if both were.
int InterruptTwice(absl::Duration echo) {
  const auto cancellation = std::make_shared<Cancellation>();
  {
    const Signals signals(cancellation, echo);
    kill(getpid(), SIGINT);
    cancellation->WaitFor(absl::InfiniteDuration());
    kill(getpid(), SIGINT);
    sigset_t pending;
    do {
      sigpending(&pending);
    } while (sigismember(&pending, SIGINT) == 1);
  }
  return 0;
}

TEST(SignalsDeathTest, ASecondInterruptEndsTheProcessUnlessItIsAnEcho) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  EXPECT_EXIT(std::exit(InterruptTwice(absl::ZeroDuration())),
              testing::ExitedWithCode(kExitInterrupted),
              "");
  EXPECT_EXIT(std::exit(InterruptTwice(absl::Hours(1))),
              testing::ExitedWithCode(0),
              "");
}

// What bash would offer after these words; `weir` stands in for a server.
std::string Complete(const std::string& script,
                     const std::filesystem::path& directory,
                     const std::string& words) {
  const std::string path = directory / "completion.bash";
  std::ofstream(path) << script << "\nweir() { echo \"$1-one $1-two\"; }\n"
                      << "COMP_WORDS=(" << words << ")\n"
                      << "COMP_CWORD=$((${#COMP_WORDS[@]}-1))\n"
                      << "_weir\necho \"${COMPREPLY[*]}\"\n";
  FILE* bash = popen(("bash " + path + " 2>&1").c_str(), "r");
  std::string offered;
  char block[4096];
  while (const size_t got = std::fread(block, 1, sizeof(block), bash)) {
    offered.append(block, got);
  }
  EXPECT_EQ(pclose(bash), 0);
  return offered;
}

TEST_F(ToolTest, BashCompletesCommandsOptionsAndValues) {
  const Result script = Run({"completion", "bash"});
  ASSERT_EQ(script.code, kExitOk);
  const auto complete = [&](const std::string& words) {
    return Complete(script.out, directory_, words);
  };
  Write("plot-me", "");

  EXPECT_EQ(complete("weir ''"),
            "stream generate chat session models top completion\n");
  EXPECT_EQ(complete("weir se"), "session\n");
  EXPECT_EQ(complete("weir session ''"), "ls show fork close\n");
  EXPECT_EQ(complete("weir --server host --json stream --pl"), "--plot\n");
  EXPECT_EQ(complete("weir stream doc --no"),
            "--no-scores --no-start-token --no-color\n");
  EXPECT_EQ(complete("weir completion ''"), "bash zsh fish\n");
  EXPECT_EQ(complete("weir session show session-t"), "session-two\n");
  EXPECT_EQ(complete("weir session close x y session-o"), "session-one\n");
  EXPECT_EQ(complete("weir chat --model models-o"), "models-one\n");
  EXPECT_EQ(complete("weir chat --model = models-o"), "models-one\n");
  EXPECT_EQ(complete("weir stream " + (directory_ / "plot").string()),
            (directory_ / "plot-me").string() + "\n");
  EXPECT_EQ(complete("weir stream --window ''"), "\n");
}

TEST_F(ToolTest, EveryCommandAndOptionIsInEveryScript) {
  for (const char* shell : {"bash", "zsh", "fish"}) {
    const std::string script = Run({"completion", shell}).out;
    for (const char* word : {"stream",
                             "generate",
                             "chat",
                             "fork",
                             "models",
                             "top",
                             "completion",
                             "weir session close"}) {
      EXPECT_THAT(script, HasSubstr(word)) << shell;
    }
    for (const char* option : {"append-tokens",
                               "repetition-penalty",
                               "no-color",
                               "metrics",
                               "resume"}) {
      EXPECT_THAT(script, HasSubstr(option)) << shell;
    }
  }
}

}  // namespace
}  // namespace weir::client
