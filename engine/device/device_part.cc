// SPDX-License-Identifier: Apache-2.0
#include "engine/device/device_part.h"

#include "base/status_macros.h"
#include "engine/kernels/cuda/layer_rows.h"

namespace weir::engine {

absl::Status MultiplyNorm(const DeviceInput& input, ProductArgs args) {
  args.source = ProductSource::kNorm;
  args.x = input.residual;
  args.x_stride = args.inputs;
  args.norm = input.norm;
  if (!IsSmallProduct(args)) {
    WEIR_RETURN_IF_ERROR(CudaStatus(NormRows(input.norm,
                                             input.residual,
                                             args.tokens,
                                             args.number,
                                             input.rows,
                                             input.stream),
                                    "a norm"));
    args.source = ProductSource::kRows;
    args.x = input.rows;
  }
  return input.products->Multiply(args, input.stream);
}

absl::Status AddProduct(const DeviceInput& input, ProductArgs args) {
  args.target = ProductTarget::kAdd;
  args.y = input.residual;
  args.y_stride = args.outputs;
  return input.products->Multiply(args, input.stream);
}

}  // namespace weir::engine
