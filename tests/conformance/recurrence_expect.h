// SPDX-License-Identifier: Apache-2.0
//
// That a form's outputs and states are those of the reference.
//
// Threads: one.
#pragma once

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/conformance/recurrence_case.h"

namespace weir::engine {

// `got` and `want` ran from `start`. A row of slot -1 has left its output
// alone; of the others outputs and states differ by rmse_max at most.
inline void ExpectRowsOfReference(const RecurrenceCase& start,
                                  const RecurrenceCase& got,
                                  const RecurrenceCase& want,
                                  double rmse_max) {
  for (size_t row = 0; row < start.slots.size(); ++row) {
    const auto r = static_cast<int32_t>(row);
    SCOPED_TRACE(testing::Message() << "row " << r);
    const int32_t slot = start.slots[row];
    if (slot < 0) {
      EXPECT_THAT(got.RowOut(r), testing::Each(kGapMark));
      continue;
    }
    EXPECT_LE(RelativeRmse(got.RowOut(r), want.RowOut(r)), rmse_max);
    EXPECT_LE(RelativeRmse(got.SlotState(slot), want.SlotState(slot)),
              rmse_max);
  }
  EXPECT_TRUE(got.GapsUntouched());
}

}  // namespace weir::engine
