// SPDX-License-Identifier: Apache-2.0
#include "engine/device/products.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"

namespace weir::engine {
namespace {

constexpr int64_t kWorkspaceBytes = int64_t{64} << 20;

absl::Status LibraryStatus(const CublasLt& library,
                           cublasStatus_t status,
                           const char* what,
                           const ProductArgs& args) {
  if (status == CUBLAS_STATUS_SUCCESS) return absl::OkStatus();
  return absl::InternalError(absl::StrCat("cuBLASLt, ",
                                          what,
                                          " of ",
                                          args.tokens,
                                          " tokens, ",
                                          args.inputs,
                                          " inputs, ",
                                          args.outputs,
                                          " outputs: ",
                                          library.GetStatusString(status)));
}

// Calls f with the first status that is not success.
class Calls {
 public:
  void operator()(cublasStatus_t status) {
    if (first_ == CUBLAS_STATUS_SUCCESS) first_ = status;
  }
  cublasStatus_t first() const { return first_; }

 private:
  cublasStatus_t first_ = CUBLAS_STATUS_SUCCESS;
};

}  // namespace

int64_t PaddedTokens(int64_t tokens) {
  const int64_t step = tokens <= 64 ? 8 : tokens <= 1024 ? 64 : 256;
  return (tokens + step - 1) / step * step;
}

Products::Way::~Way() {
  if (y != nullptr) library.MatrixLayoutDestroy(y);
  if (x != nullptr) library.MatrixLayoutDestroy(x);
  if (weight != nullptr) library.MatrixLayoutDestroy(weight);
  if (product != nullptr) library.MatmulDescDestroy(product);
}

absl::StatusOr<std::unique_ptr<Products>> Products::Create(StateNumber number) {
  WEIR_ASSIGN_OR_RETURN(const CublasLt* const library, CublasLt::Load());
  std::unique_ptr<Products> products(new Products(number, library));
  const cublasStatus_t status = library->Create(&products->handle_);
  if (status != CUBLAS_STATUS_SUCCESS) {
    return absl::InternalError(
        absl::StrCat("cuBLASLt: ", library->GetStatusString(status)));
  }
  WEIR_ASSIGN_OR_RETURN(
      products->workspace_,
      DeviceMemory::Take(kWorkspaceBytes, "a workspace of products"));
  return products;
}

Products::~Products() {
  ways_.clear();
  if (handle_ != nullptr) library_.Destroy(handle_);
}

absl::StatusOr<const Products::Way*> Products::WayOf(const ProductArgs& args) {
  const int64_t tokens = PaddedTokens(args.tokens);
  const Key key = {args.inputs,
                   args.outputs,
                   tokens,
                   args.x_stride,
                   args.y_stride,
                   args.target};
  const auto found = ways_.find(key);
  if (found != ways_.end()) return found->second.get();

  const bool is_float = number_ == StateNumber::kFloat32;
  const cudaDataType_t number = is_float ? CUDA_R_32F : CUDA_R_16BF;
  const cudaDataType_t target =
      args.target == ProductTarget::kRows ? number : CUDA_R_32F;
  auto way = std::make_unique<Way>(&library_);
  // Row-major rows are columns to the library: y^T = W x^T.
  const cublasOperation_t turned = CUBLAS_OP_T;
  Calls calls;
  calls(
      library_.MatmulDescCreate(&way->product, CUBLAS_COMPUTE_32F, CUDA_R_32F));
  calls(library_.MatmulDescSetAttribute(
      way->product, CUBLASLT_MATMUL_DESC_TRANSA, &turned, sizeof(turned)));
  calls(library_.MatrixLayoutCreate(
      &way->weight, number, args.inputs, args.outputs, args.inputs));
  calls(library_.MatrixLayoutCreate(
      &way->x, number, args.inputs, tokens, args.x_stride));
  calls(library_.MatrixLayoutCreate(
      &way->y, target, args.outputs, tokens, args.y_stride));
  cublasLtMatmulPreference_t preference = nullptr;
  calls(library_.MatmulPreferenceCreate(&preference));
  const auto bytes = static_cast<uint64_t>(kWorkspaceBytes);
  calls(library_.MatmulPreferenceSetAttribute(
      preference,
      CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES,
      &bytes,
      sizeof(bytes)));
  cublasLtMatmulHeuristicResult_t best = {};
  int count = 0;
  calls(library_.MatmulAlgoGetHeuristic(handle_,
                                        way->product,
                                        way->weight,
                                        way->x,
                                        way->y,
                                        way->y,
                                        preference,
                                        1,
                                        &best,
                                        &count));
  if (preference != nullptr) library_.MatmulPreferenceDestroy(preference);
  WEIR_RETURN_IF_ERROR(
      LibraryStatus(library_,
                    calls.first() == CUBLAS_STATUS_SUCCESS && count == 0
                        ? CUBLAS_STATUS_NOT_SUPPORTED
                        : calls.first(),
                    "no way for a product",
                    args));
  way->algorithm = best.algo;
  return ways_.emplace(key, std::move(way)).first->second.get();
}

absl::Status Products::Multiply(const ProductArgs& args, cudaStream_t stream) {
  if (IsSmallProduct(args)) {
    return CudaStatus(SmallProduct(args, stream), "a product of few tokens");
  }
  return MultiplyByLibrary(args, stream);
}

absl::Status Products::MultiplyByLibrary(const ProductArgs& args,
                                         cudaStream_t stream) {
  if (args.source != ProductSource::kRows ||
      args.target == ProductTarget::kSilu) {
    return absl::InternalError(
        "a product of many tokens with a norm before it or a gate behind it");
  }
  WEIR_ASSIGN_OR_RETURN(const Way* way, WayOf(args));
  const float one = 1;
  const float added = args.target == ProductTarget::kAdd ? 1 : 0;
  return LibraryStatus(library_,
                       library_.Matmul(handle_,
                                       way->product,
                                       &one,
                                       args.weight,
                                       way->weight,
                                       args.x,
                                       way->x,
                                       &added,
                                       args.y,
                                       way->y,
                                       args.y,
                                       way->y,
                                       &way->algorithm,
                                       workspace_.data(),
                                       kWorkspaceBytes,
                                       stream),
                       "a product",
                       args);
}

}  // namespace weir::engine
