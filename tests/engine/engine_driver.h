// SPDX-License-Identifier: Apache-2.0
//
// Feeds documents to an engine, one row a step or many.
//
// Threads: none.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "engine/engine.h"
#include "engine/torch_engine.h"
#include "tests/engine/source_path.h"

namespace weir::engine {

// An engine on a folder of the source tree; the test fails if there is none.
std::unique_ptr<TorchEngine> EngineOn(const std::string& relative,
                                      int32_t slots);

// One step; the test fails if it is refused or fails.
StepResult RunStep(Engine& engine, const Plan& plan);

// Feeds `tokens` to `slot` in rows of `piece` tokens and returns their scores.
// `consumed`: tokens that the slot has consumed before.
std::vector<float> FeedInPieces(Engine& engine,
                                int32_t slot,
                                std::span<const uint32_t> tokens,
                                size_t piece,
                                uint64_t consumed = 0);

// Both folders' models give a document the same scores, each no further from
// the other's than `error_max`: in one row, and in rows of a few tokens.
void ExpectSameScores(const std::string& folder,
                      const std::string& other,
                      double error_max);

// Draws `count` tokens greedily, each fed before the next is drawn.
std::vector<uint32_t> ContinueGreedily(Engine& engine,
                                       int32_t slot,
                                       size_t count);

std::vector<std::byte> Save(Engine& engine, int32_t slot);

// Tokens that look like nothing in particular; the same for the same seed.
std::vector<uint32_t> RandomTokens(uint32_t vocabulary,
                                   size_t count,
                                   uint64_t seed);

}  // namespace weir::engine
