// SPDX-License-Identifier: Apache-2.0
#include "text/byte_tokens.h"

#include <string>

#include "gtest/gtest.h"

namespace weir::text {
namespace {

TEST(ByteTokensTest, EveryByteIsItsOwnToken) {
  std::string text;
  for (int byte = 0; byte < 256; ++byte) text += static_cast<char>(byte);

  const std::vector<uint32_t> tokens = BytesToTokens(text);

  ASSERT_EQ(tokens.size(), 256u);
  for (uint32_t byte = 0; byte < 256; ++byte) {
    EXPECT_EQ(tokens[byte], byte);
    EXPECT_EQ(TokenToByte(tokens[byte]), byte);
  }
}

TEST(ByteTokensTest, NothingIsAddedToAnEmptyText) {
  EXPECT_TRUE(BytesToTokens("").empty());
}

TEST(ByteTokensTest, TokensAboveTheBytesHaveNoText) {
  EXPECT_EQ(TokenToByte(256), std::nullopt);
  EXPECT_EQ(TokenToByte(0xffffffff), std::nullopt);
}

}  // namespace
}  // namespace weir::text
