// SPDX-License-Identifier: Apache-2.0
#include "client/metrics_page.h"

#include <arpa/inet.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmath>
#include <thread>

#include "client/http_get.h"
#include "client/top_view.h"

namespace weir::client {
namespace {

using testing::AllOf;
using testing::HasSubstr;

constexpr char kPage[] = R"(# HELP weir_sessions Open sessions.
# TYPE weir_sessions gauge
weir_sessions 7
weir_state_slots{state="used"} 7
weir_state_slots{state="free"} 1785
weir_build_info{version="0.1.0",revision="abc",backend="cpu"} 1
weir_model_info{model_name="demo",arch="gated_deltanet",dtype="bf16"} 1
weir_prompt_tokens_total 1000 1700000000000
weir_generation_tokens_total 50
weir_step_duration_seconds_bucket{phase="decode",le="0.1"} 10
weir_step_duration_seconds_bucket{phase="decode",le="0.2"} 20
weir_step_duration_seconds_bucket{phase="decode",le="+Inf"} 20
weir_step_duration_seconds_sum{phase="decode"} 2
weir_step_duration_seconds_count{phase="decode"} 20
weir_step_duration_seconds_bucket{phase="prefill",le="0.1"} 0
weir_step_duration_seconds_bucket{phase="prefill",le="0.2"} 60
weir_step_duration_seconds_bucket{phase="prefill",le="+Inf"} 80
weir_step_duration_seconds_sum{phase="prefill"} 18
weir_step_duration_seconds_count{phase="prefill"} 80
weir_batch_size_bucket{le="+Inf"} 100
weir_batch_size_sum 250
weir_batch_size_count 100
weir_errors_total{reason="QUEUE_FULL"} 3
weir_errors_total{reason="BAD_ID"} 12
weir_errors_total{reason="BAD_TTL"} 0
odd{text="a \"quoted\" \\ back\nslash, and }"} +Inf
)";

MetricsPage Page(std::string_view text = kPage) {
  absl::StatusOr<MetricsPage> page = MetricsPage::Parse(text);
  EXPECT_TRUE(page.ok()) << page.status();
  return *std::move(page);
}

TEST(MetricsPageTest, ReadsNamesLabelsValuesAndEscapes) {
  const MetricsPage page = Page();

  EXPECT_EQ(page.Sum("weir_sessions"), 7);
  EXPECT_EQ(page.Sum("weir_state_slots", {{"state", "free"}}), 1785);
  EXPECT_EQ(page.Sum("weir_state_slots"), 1792);
  EXPECT_EQ(page.Sum("weir_prompt_tokens_total"), 1000) << "a time follows";
  EXPECT_EQ(page.Label("weir_model_info", "model_name"), "demo");
  EXPECT_EQ(page.Label("odd", "text"), "a \"quoted\" \\ back\nslash, and }");
  EXPECT_TRUE(std::isinf(page.Sum("odd")));
  EXPECT_EQ(page.Sum("absent", {}, -1), -1);
  EXPECT_EQ(page.Label("absent", "x"), "");
}

TEST(MetricsPageTest, RefusesWhatIsNotTheFormatAndNamesTheLine) {
  for (const char* line : {"weir_x",
                           "weir_x{a=\"b\" 1",
                           "weir_x{a=b} 1",
                           "weir_x{a=\"b} 1",
                           "weir_x one",
                           "{a=\"b\"} 1",
                           "<html>"}) {
    const absl::Status status =
        MetricsPage::Parse("ok 1\n" + std::string(line) + "\n").status();
    EXPECT_TRUE(absl::IsInvalidArgument(status)) << line;
    EXPECT_THAT(std::string(status.message()), HasSubstr("line 2"));
  }
  EXPECT_TRUE(MetricsPage::Parse("").ok());
}

TEST(MetricsPageTest, AHistogramAddsUpItsSeries) {
  const Histogram all = Page().HistogramOf("weir_step_duration_seconds");
  EXPECT_EQ(all.count, 100);
  EXPECT_EQ(all.sum, 20);
  EXPECT_EQ(all.buckets.at(0.1), 10);
  EXPECT_EQ(all.buckets.at(0.2), 80);
  EXPECT_DOUBLE_EQ(all.Mean(), 0.2);

  const Histogram decode =
      Page().HistogramOf("weir_step_duration_seconds", {{"phase", "decode"}});
  EXPECT_EQ(decode.count, 20);
}

TEST(MetricsPageTest, QuantilesAreInterpolatedWithinTheirBucket) {
  Histogram histogram;
  const double inf = std::numeric_limits<double>::infinity();
  histogram.buckets = {{1, 10}, {2, 30}, {4, 90}, {inf, 100}};
  EXPECT_DOUBLE_EQ(histogram.Quantile(0.05), 0.5);
  EXPECT_DOUBLE_EQ(histogram.Quantile(0.1), 1);
  EXPECT_DOUBLE_EQ(histogram.Quantile(0.2), 1.5);
  EXPECT_DOUBLE_EQ(histogram.Quantile(0.6), 3);
  EXPECT_DOUBLE_EQ(histogram.Quantile(0.99), 4) << "the last finite bound";
  EXPECT_TRUE(std::isnan(Histogram().Quantile(0.5)));
  EXPECT_TRUE(std::isnan(Histogram().Mean()));
}

TEST(MetricsPageTest, TheDifferenceOfTwoReadingsAndARestart) {
  Histogram before;
  before.buckets = {{1, 10}, {2, 20}};
  before.count = 20;
  before.sum = 30;
  Histogram now;
  now.buckets = {{1, 10}, {2, 24}};
  now.count = 24;
  now.sum = 36;

  const Histogram since = now.Since(before);
  EXPECT_EQ(since.count, 4);
  EXPECT_EQ(since.sum, 6);
  EXPECT_EQ(since.buckets.at(1), 0);
  EXPECT_DOUBLE_EQ(since.Quantile(0.5), 1.5);
  EXPECT_EQ(before.Since(now).count, 20) << "the server has restarted";
}

TEST(TopViewTest, RatesComeFromTheDifferenceOfCounters) {
  const absl::Time start = absl::FromUnixSeconds(1'700'000'000);
  const Reading before{.page = Page(), .time = start};
  const Reading now{
      .page = Page("weir_sessions 9\nweir_prompt_tokens_total 3000\n"
                   "weir_generation_tokens_total 10\n"),
      .time = start + absl::Seconds(4)};

  const auto json = TopJson(now, &before);

  EXPECT_EQ(json["sessions"], 9);
  EXPECT_EQ(json["appended_tokens_per_second"], 500);
  EXPECT_EQ(json["generated_tokens_per_second"], 2.5) << "after a restart";
  EXPECT_EQ(json["interval_seconds"], 4);
}

TEST(TopViewTest, ShowsWhatThePageHolds) {
  const Reading now{.page = Page(),
                    .time = absl::FromUnixSeconds(1'700'000'000)};

  const std::string text = RenderTop(now, nullptr, "127.0.0.1:9470", 200);

  EXPECT_THAT(text,
              AllOf(HasSubstr("weir 0.1.0 at 127.0.0.1:9470, model demo"),
                    HasSubstr("7 open"),
                    HasSubstr("7 used, 1,785 free"),
                    HasSubstr("2.50 rows"),
                    HasSubstr("BAD_ID 12, QUEUE_FULL 3\n"),
                    HasSubstr("step         157 ms  200 ms  200 ms    100")));
  EXPECT_EQ(TopJson(now, nullptr)["errors"]["BAD_ID"], 12);
  EXPECT_FALSE(TopJson(now, nullptr)["errors"].contains("BAD_TTL"));
  EXPECT_EQ(TopJson(now, nullptr)["latency_seconds"]["step"]["count"], 100);
}

TEST(TopViewTest, AnEmptyPageAndANarrowTerminal) {
  const Reading empty{.page = Page(""), .time = absl::UnixEpoch()};
  const std::string text = RenderTop(empty, nullptr, "x:1", 30);
  EXPECT_THAT(text, HasSubstr("errors    none"));
  size_t begin = 0;
  for (size_t end = text.find('\n'); end != std::string::npos;
       begin = end + 1, end = text.find('\n', begin)) {
    EXPECT_LE(end - begin, 32u) << "30 columns, one of them may be an ellipsis";
  }
}

// Answers one connection with `answer`.
class OneAnswer {
 public:
  explicit OneAnswer(std::string answer) {
    listener_ = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t size = sizeof(address);
    EXPECT_EQ(bind(listener_, reinterpret_cast<sockaddr*>(&address), size), 0);
    listen(listener_, 1);
    getsockname(listener_, reinterpret_cast<sockaddr*>(&address), &size);
    port_ = ntohs(address.sin_port);
    thread_ = std::thread([this, answer = std::move(answer)] {
      const int fd = accept(listener_, nullptr, nullptr);
      char block[4096];
      const ssize_t got = read(fd, block, sizeof(block));
      request_.assign(block, std::max<ssize_t>(got, 0));
      // In two pieces, as a network may.
      const size_t half = answer.size() / 2;
      (void)!write(fd, answer.data(), half);
      (void)!write(fd, answer.data() + half, answer.size() - half);
      close(fd);
    });
  }
  ~OneAnswer() {
    if (thread_.joinable()) thread_.join();
    close(listener_);
  }
  std::string address() const { return "127.0.0.1:" + std::to_string(port_); }
  const std::string& request() {
    thread_.join();
    return request_;
  }

 private:
  int listener_;
  int port_;
  std::string request_;
  std::thread thread_;
};

TEST(HttpGetTest, ReadsABodyToItsEnd) {
  OneAnswer server("HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n\r\nx 1\n");
  const auto body = HttpGet(server.address(), "/metrics", absl::Seconds(20));
  ASSERT_TRUE(body.ok()) << body.status();
  EXPECT_EQ(*body, "x 1\n");
  EXPECT_THAT(server.request(), HasSubstr("GET /metrics HTTP/1.0\r\n"));
}

TEST(HttpGetTest, SaysWhatWentWrong) {
  {
    OneAnswer server("HTTP/1.1 404 Not Found\r\n\r\n");
    const auto body = HttpGet(server.address(), "/", absl::Seconds(20));
    EXPECT_THAT(std::string(body.status().message()),
                HasSubstr(server.address() + "/: the answer is HTTP/1.1 404"));
  }
  {
    OneAnswer server("SSH-2.0-OpenSSH\r\n");
    EXPECT_FALSE(HttpGet(server.address(), "/", absl::Seconds(20)).ok());
  }
  std::string gone;
  {
    OneAnswer server("HTTP/1.0 200 OK\r\n\r\n");
    gone = server.address();
    EXPECT_EQ(*HttpGet(gone, "/", absl::Seconds(20)), "");
  }
  EXPECT_TRUE(
      absl::IsUnavailable(HttpGet(gone, "/", absl::Seconds(20)).status()));
  EXPECT_TRUE(absl::IsInvalidArgument(
      HttpGet("no-port", "/", absl::Seconds(1)).status()));
}

}  // namespace
}  // namespace weir::client
