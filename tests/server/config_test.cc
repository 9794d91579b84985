// SPDX-License-Identifier: Apache-2.0
#include "server/config.h"

#include <sys/stat.h>

#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "server/option_table.h"

namespace weir::server {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

using Words = std::vector<std::string>;

const Words kModel = {"--model", "/models/demo"};

Words With(Words words, const Words& more) {
  words.insert(words.end(), more.begin(), more.end());
  return words;
}

// REQUIRES: the options are right.
Config Read(const Words& arguments, const Words& environment = {}) {
  ConfigOrExit read = ReadConfig(arguments, environment);
  EXPECT_TRUE(read.config.has_value()) << read.exit.text;
  return read.config.value_or(Config());
}

// A file in a folder of this test's own.
class ConfigFileTest : public ::testing::Test {
 protected:
  ConfigFileTest() {
    std::string folder = ::testing::TempDir() + "weir-config-XXXXXX";
    EXPECT_NE(mkdtemp(folder.data()), nullptr);
    folder_ = folder;
  }
  ~ConfigFileTest() override { std::filesystem::remove_all(folder_); }

  std::string Write(const std::string& text, mode_t mode = 0644) {
    const std::string path = folder_ + "/weir.json";
    std::ofstream(path) << text;
    EXPECT_EQ(chmod(path.c_str(), mode), 0);
    return path;
  }
  ConfigOrExit ReadWith(const std::string& text, mode_t mode = 0644) {
    return ReadConfig(With(kModel, {"--config", Write(text, mode)}), {});
  }

  std::string folder_;
};

TEST(ConfigTest, AGpuHasItsOwnDefaults) {
  const Config cpu = Read(kModel);
  EXPECT_FALSE(cpu.cuda);
  EXPECT_TRUE(cpu.fp32);
  EXPECT_EQ(cpu.limits.step_tokens_max, 512);

  const Config cuda = Read(With(kModel, {"--device", "cuda"}));
  EXPECT_TRUE(cuda.cuda);
  EXPECT_FALSE(cuda.fp32);
  EXPECT_FALSE(cuda.ring);
  EXPECT_EQ(cuda.limits.step_tokens_max, 8192);
  EXPECT_EQ(cuda.limits.step_rows_max, 512);
  // What the card has left.
  EXPECT_EQ(cuda.pool_bytes, 0U);

  const Config told = Read(With(kModel,
                                {"--device",
                                 "cuda",
                                 "--compute",
                                 "fp32",
                                 "--state-number",
                                 "bf16",
                                 "--step-tokens",
                                 "64",
                                 "--pool-bytes",
                                 "3GiB"}));
  EXPECT_TRUE(told.fp32);
  EXPECT_TRUE(told.bf16_state);
  EXPECT_FALSE(told.ring);
  EXPECT_EQ(told.limits.step_tokens_max, 64);
  EXPECT_EQ(told.pool_bytes, uint64_t{3} << 30);

  EXPECT_TRUE(
      Read(With(kModel, {"--device", "cuda", "--state-form", "ring"})).ring);
}

TEST(ConfigTest, DefaultsListenOnThisMachineAlone) {
  const Config config = Read(kModel);

  EXPECT_EQ(config.model_name, "demo");
  EXPECT_EQ(config.model_dir, "/models/demo");
  EXPECT_EQ(config.listen.text(), "127.0.0.1:7070");
  ASSERT_TRUE(config.metrics_listen.has_value());
  EXPECT_EQ(config.metrics_listen->text(), "127.0.0.1:9470");
  EXPECT_FALSE(config.admin_listen.has_value());
  EXPECT_GE(config.threads, 1);
  EXPECT_FALSE(config.slots.has_value());
  EXPECT_EQ(config.pool_bytes, uint64_t{1} << 30);
  EXPECT_EQ(config.limits.append_tokens_max, 65'536);
  EXPECT_EQ(config.limits.log_bytes_max, uint64_t{512} << 20);
  EXPECT_EQ(config.limits.slow_consumer_after, absl::Seconds(30));
}

TEST(ConfigTest, EveryDefaultPassesItsOwnCheck) {
  for (const Option& option : Options()) {
    if (option.initial.empty()) continue;
    EXPECT_TRUE(CheckValue(option, std::string(option.initial)).ok())
        << option.name;
  }
}

struct WrongFlags {
  Words words;
  std::string name;   // that the message must hold
  std::string range;  // and this
};

TEST(ConfigTest, WrongFlagsEndWithTwoAndSayWhichAndWhatRange) {
  const WrongFlags cases[] = {
      {{"--threads", "-1"}, "--threads", "1 to 1024"},
      {{"--threads", "0"}, "--threads", "1 to 1024"},
      {{"--threads", "1000000"}, "--threads", "1 to 1024"},
      {{"--threads=1.5"}, "--threads", "1 to 1024"},
      {{"--threads", "1e9999"}, "--threads", "1 to 1024"},
      {{"--threads", ""}, "--threads", "1 to 1024"},
      {{"--threads", " 4"}, "--threads", "1 to 1024"},
      {{"--threads", "4x"}, "--threads", "1 to 1024"},
      {{"--threads", "0x10"}, "--threads", "1 to 1024"},
      {{"--slots", "99999999999999999999999"}, "--slots", "1 to 1000000"},
      {{"--pool-bytes", "4PiB"}, "--pool-bytes", "1024 to"},
      {{"--pool-bytes", "99999999999999999GiB"}, "--pool-bytes", "1024 to"},
      {{"--pool-bytes", "GiB"}, "--pool-bytes", "1024 to"},
      {{"--log-bytes", "1023KiB"}, "--log-bytes", "1048576 to"},
      {{"--append-tokens", "65537"}, "--append-tokens", "1 to 65536"},
      {{"--step-tokens", "0"}, "--step-tokens", "1 to"},
      {{"--drain-seconds", "3601"}, "--drain-seconds", "0 to 3600"},
      {{"--idle-seconds", "10", "--idle-seconds-max", "9"},
       "--idle-seconds",
       "--idle-seconds-max"},
      {{"--listen", "7070"}, "--listen", "HOST:PORT"},
      {{"--listen", ""}, "--listen", "HOST:PORT"},
      {{"--listen", "127.0.0.1:65536"}, "--listen", "0 to 65535"},
      {{"--listen", "127.0.0.1:-1"}, "--listen", "0 to 65535"},
      {{"--listen", "127.0.0.1:"}, "--listen", "0 to 65535"},
      {{"--listen", "::1:7070"}, "--listen", "brackets"},
      {{"--listen", "a b:1"}, "--listen", "HOST:PORT"},
      {{"--metrics-listen", "x"}, "--metrics-listen", "HOST:PORT"},
      {{"--admin-listen", "x"}, "--admin-listen", "HOST:PORT"},
      {{"--config", ""}, "--config", "FILE"},
      {{"--slots", "4", "--pool-bytes", "1GiB"}, "--slots", "--pool-bytes"},
      {{"--device", "gpu"}, "--device", "cpu|cuda"},
      {{"--device", "cuda", "--compute", "tf32"}, "--compute", "bf16|fp32"},
      {{"--compute", "bf16"}, "--compute", "--device cuda"},
      {{"--state-number", "bf16"}, "--state-number", "--device cuda"},
      {{"--device", "cuda", "--state-number", "fp16"},
       "--state-number",
       "fp32|bf16"},
      {{"--device", "cuda", "--state-form", "log"},
       "--state-form",
       "write|ring"},
      {{"--state-form", "ring"}, "--state-form", "--device cuda"},
      {{"--device", "cuda", "--state-form", "ring", "--state-number", "bf16"},
       "--state-form",
       "--state-number fp32"},
      {{"--listen", "0.0.0.0:7070"}, "--listen", "--allow-plaintext"},
      {{"--listen", "127.evil.example:7070"}, "--listen", "--allow-plaintext"},
      {{"--admin-listen", "[::]:1"}, "--admin-listen", "--allow-plaintext"},
      {{"--frobnicate"}, "--frobnicate", ""},
      {{"--slots", "1", "--slots", "2"}, "--slots", ""},
      {{"--allow-nonfinite", "--allow-nonfinite"}, "--allow-nonfinite", ""},
      {{"stray"}, "stray", ""},
      {{"--slots"}, "--slots", ""},
  };
  for (const WrongFlags& test : cases) {
    const ConfigOrExit read = ReadConfig(With(kModel, test.words), {});
    SCOPED_TRACE(::testing::PrintToString(test.words));
    ASSERT_FALSE(read.config.has_value());
    EXPECT_EQ(read.exit.code, 2);
    EXPECT_THAT(read.exit.text,
                AllOf(HasSubstr(test.name), HasSubstr(test.range)));
  }
}

TEST(ConfigTest, AModelIsRequiredAndItsNameChecked) {
  EXPECT_THAT(ReadConfig({}, {}).exit.text, HasSubstr("--model"));
  for (const char* value : {"",
                            "=dir",
                            "Upper=dir",
                            "-x=dir",
                            "name=",
                            "a b=dir",
                            "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
                            "aaaaaaaaaaaaaaa=d"}) {
    const ConfigOrExit read = ReadConfig({"--model", value}, {});
    EXPECT_FALSE(read.config.has_value()) << value;
    EXPECT_EQ(read.exit.code, 2) << value;
    EXPECT_THAT(read.exit.text, HasSubstr("--model")) << value;
  }
}

TEST(ConfigTest, TheNameComesFromTheFolderMadeValid) {
  const std::pair<const char*, const char*> cases[] = {
      {"/models/demo", "demo"},
      {"/models/demo/", "demo"},
      {"Mamba2-130M", "mamba2-130m"},
      {"/m/My Model (new)", "my-model--new-"},
      {"/m/__x", "x"},
      {"gdn=/m/Demo", "gdn"},
      {"/", "model"},
  };
  for (const auto& [value, name] : cases) {
    EXPECT_EQ(Read({"--model", value}).model_name, name) << value;
  }
}

TEST(ConfigTest, BytesTakeUnits) {
  EXPECT_EQ(Read(With(kModel, {"--pool-bytes", "4096"})).pool_bytes, 4096u);
  EXPECT_EQ(Read(With(kModel, {"--pool-bytes", "3MiB"})).pool_bytes, 3u << 20);
  EXPECT_EQ(Read(With(kModel, {"--log-bytes", "3MiB"})).limits.log_bytes_max,
            3u << 20);
}

TEST(ConfigTest, AddressesMayBeOffOrOfIpv6) {
  EXPECT_FALSE(Read(With(kModel, {"--metrics-listen", "off"})).metrics_listen);
  EXPECT_FALSE(Read(With(kModel, {"--metrics-listen", ""})).metrics_listen);
  const Config config = Read(With(kModel, {"--listen", "[::1]:0"}));
  EXPECT_EQ(config.listen.host, "::1");
  EXPECT_EQ(config.listen.text(), "[::1]:0");
}

TEST(ConfigTest, PlaintextForOtherMachinesMustBeAskedFor) {
  const Config config = Read(With(kModel,
                                  {"--listen",
                                   "0.0.0.0:7070",
                                   "--metrics-listen",
                                   "0.0.0.0:9470",
                                   "--allow-plaintext"}));

  EXPECT_FALSE(config.listen.loopback());
}

TEST(ConfigTest, HelpAndVersionEndWithZero) {
  const ConfigOrExit help = ReadConfig({"--help"}, {});
  EXPECT_FALSE(help.config.has_value());
  EXPECT_EQ(help.exit.code, 0);
  for (const Option& option : Options()) {
    EXPECT_THAT(help.exit.text, HasSubstr("--" + std::string(option.name)));
  }
  const ConfigOrExit version = ReadConfig({"--version"}, {});
  EXPECT_EQ(version.exit.code, 0);
  EXPECT_THAT(version.exit.text, HasSubstr("weir-server "));
}

TEST(ConfigTest, FlagsGoBeforeTheEnvironment) {
  const Words environment = {
      "WEIR_THREADS=3", "WEIR_STEP_TOKENS=64", "PATH=/bin"};

  const Config config = Read(With(kModel, {"--threads", "2"}), environment);

  EXPECT_EQ(config.threads, 2);
  EXPECT_EQ(config.limits.step_tokens_max, 64);
}

TEST(ConfigTest, WrongEnvironmentEndsWithTwoAndSaysWhich) {
  const std::pair<const char*, const char*> cases[] = {
      {"WEIR_THREADS=0", "WEIR_THREADS"},
      {"WEIR_THREADS=", "WEIR_THREADS"},
      {"WEIR_FROBNICATE=1", "WEIR_FROBNICATE"},
      {"WEIR_LISTEN_PORT=7070", "WEIR_LISTEN_PORT"},
      {"WEIR_PORT_TCP=1", "WEIR_PORT_TCP"},
      {"WEIR_SERVERS=1", "WEIR_SERVERS"},
      {"WEIR_ALLOW_NONFINITE=yes", "WEIR_ALLOW_NONFINITE"},
  };
  for (const auto& [entry, name] : cases) {
    const ConfigOrExit read = ReadConfig(kModel, {entry});
    EXPECT_FALSE(read.config.has_value()) << entry;
    EXPECT_EQ(read.exit.code, 2) << entry;
    EXPECT_THAT(read.exit.text, HasSubstr(name));
  }
}

TEST(ConfigTest, TheToolsVariablesAreNotTheServers) {
  Read(kModel, {"WEIR_SERVER=10.0.0.1:7070", "WEIR_METRICS=10.0.0.1:9470"});
}

TEST(ConfigTest, WhatKubernetesSetsForServicesNamedWeirIsNoOption) {
  Read(kModel,
       {"WEIR_SERVICE_HOST=10.0.0.1",
        "WEIR_SERVICE_PORT=7070",
        "WEIR_PORT=tcp://10.0.0.1:7070",
        "WEIR_PORT_7070_TCP_ADDR=10.0.0.1",
        "WEIR_HEADLESS_METRICS_SERVICE_HOST=10.0.0.2",
        "WEIR_HEADLESS_METRICS_SERVICE_PORT=9470",
        "WEIR_HEADLESS_METRICS_SERVICE_PORT_HTTP=9470",
        "WEIR_HEADLESS_METRICS_PORT=tcp://10.0.0.2:9470",
        "WEIR_HEADLESS_METRICS_PORT_9470_TCP=tcp://10.0.0.2:9470",
        "WEIR_HEADLESS_METRICS_PORT_9470_TCP_PROTO=tcp",
        "WEIR_HEADLESS_METRICS_PORT_9470_TCP_PORT=9470",
        "WEIR_HEADLESS_METRICS_PORT_9470_TCP_ADDR=10.0.0.2",
        "WEIR_DNS_PORT_53_UDP=udp://10.0.0.3:53"});
}

TEST(ConfigTest, AStrongerSourceSettlesThePool) {
  const Config config =
      Read(With(kModel, {"--slots", "8"}), {"WEIR_POOL_BYTES=1GiB"});
  EXPECT_EQ(config.slots, 8);

  const Config other =
      Read(With(kModel, {"--pool-bytes", "2GiB"}), {"WEIR_SLOTS=8"});
  EXPECT_FALSE(other.slots.has_value());
  EXPECT_EQ(other.pool_bytes, uint64_t{2} << 30);
}

TEST_F(ConfigFileTest, TheEnvironmentGoesBeforeTheFile) {
  const std::string path =
      Write(R"({"threads": 4, "step-tokens": "128", "allow-nonfinite": true})");

  const Config config =
      Read(With(kModel, {"--config", path}), {"WEIR_THREADS=3"});

  EXPECT_EQ(config.threads, 3);
  EXPECT_EQ(config.limits.step_tokens_max, 128);
  EXPECT_TRUE(config.allow_nonfinite);
}

TEST_F(ConfigFileTest, AFileThatOthersCanWriteIsRefused) {
  const ConfigOrExit read = ReadWith(R"({"threads": 4})", 0646);

  ASSERT_FALSE(read.config.has_value());
  EXPECT_EQ(read.exit.code, 2);
  EXPECT_THAT(read.exit.text, HasSubstr("written by everyone"));
}

TEST_F(ConfigFileTest, WrongFilesEndWithTwoAndSayWhat) {
  const std::pair<const char*, const char*> cases[] = {
      {"", "JSON object"},
      {"[]", "JSON object"},
      {"{\"threads\": 4", "JSON object"},
      {R"({"threads": 0})", "--threads"},
      {R"({"threads": -1})", "--threads"},
      {R"({"threads": 1e9999})", "JSON object"},
      {R"({"threads": 1.5})", "--threads"},
      {R"({"threads": null})", "threads"},
      {R"({"threads": [4]})", "threads"},
      {R"({"threads": 1, "threads": 2})", "threads twice"},
      {R"({"frobnicate": 1})", "frobnicate"},
      {R"({"config": "other"})", "config"},
      {R"({"slots": 1, "pool-bytes": "1GiB"})", "--pool-bytes"},
  };
  for (const auto& [text, part] : cases) {
    const ConfigOrExit read = ReadWith(text);
    EXPECT_FALSE(read.config.has_value()) << text;
    EXPECT_EQ(read.exit.code, 2) << text;
    EXPECT_THAT(read.exit.text, HasSubstr(part)) << text;
  }
}

TEST_F(ConfigFileTest, AMissingFileIsNamed) {
  const ConfigOrExit read =
      ReadConfig(With(kModel, {"--config", folder_ + "/none"}), {});

  EXPECT_EQ(read.exit.code, 2);
  EXPECT_THAT(read.exit.text, HasSubstr(folder_ + "/none"));
}

}  // namespace
}  // namespace weir::server
