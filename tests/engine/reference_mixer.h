// SPDX-License-Identifier: Apache-2.0
//
// What a mixer's formulas are written with anew, in fp64 and token by token:
// named tensors, vectors by heads, the short convolution, a state [K, V].
//
// Threads: none.
#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <map>
#include <set>
#include <string>
#include <vector>

#include "nlohmann/json.hpp"

namespace weir::engine {

using Vector = std::vector<double>;

double Sigmoid(double x);
double Silu(double x);
double Softplus(double x);
double EluPlusOne(double x);
// Of each element.
Vector Each(double (*function)(double), Vector x);

Vector Scaled(Vector x, double factor);
Vector Plus(Vector x, const Vector& y);
// By elements.
Vector Times(Vector x, const Vector& y);
double Dot(const Vector& x, const Vector& y);
Vector Softmax(Vector x);
// x / sqrt(x.x + 1e-6)
Vector UnitLength(const Vector& x);

// x [heads, dim] by heads, and back.
std::vector<Vector> HeadsOf(const Vector& x, size_t heads, size_t dim);
Vector Joined(const std::vector<Vector>& heads);

// S [keys, values], zero at first.
class DenseState {
 public:
  DenseState(size_t keys, size_t values)
      : keys_(keys), values_(values), s_(keys * values, 0.0) {}

  // S[i, :] *= d[i]
  void Decay(const Vector& d);
  // S += k v^T
  void Write(const Vector& k, const Vector& v);
  // S^T x
  Vector Read(const Vector& x) const;
  // S[i, :]
  Vector Row(size_t i) const;

 private:
  size_t keys_;
  size_t values_;
  Vector s_;
};

// Named tensors as a reference reads them. What it asks for must be there, in
// the shape that it says: the test ends if it is not.
class ReferenceWeights {
 public:
  void Add(const std::string& name,
           const std::vector<int64_t>& shape,
           std::vector<float> values);
  const std::vector<float>& Get(const std::string& name,
                                const std::vector<size_t>& shape) const;
  // W x by NAME.weight [rows, x], plus NAME.bias if there is one.
  Vector Project(const std::string& name, size_t rows, const Vector& x) const;
  // x / sqrt(mean x^2 + eps) times NAME.weight.
  Vector RmsNorm(const std::string& name, double eps, const Vector& x) const;
  // What nobody has read.
  std::vector<std::string> Unread() const;

 private:
  struct Tensor {
    std::vector<size_t> shape;
    std::vector<float> values;
  };
  std::map<std::string, Tensor> tensors_;
  mutable std::set<std::string> read_;
};

// The tensors of one layer's mixer, by names that follow the layer's prefix.
class ReferenceLayer {
 public:
  // `weights` must outlive this.
  ReferenceLayer(const ReferenceWeights& weights,
                 std::string prefix,
                 int32_t index)
      : weights_(weights), prefix_(std::move(prefix)), index_(index) {}

  int32_t index() const { return index_; }
  const std::vector<float>& Get(const std::string& name,
                                const std::vector<size_t>& shape) const {
    return weights_.Get(prefix_ + name, shape);
  }
  Vector Project(const std::string& name, size_t rows, const Vector& x) const {
    return weights_.Project(prefix_ + name, rows, x);
  }
  Vector RmsNorm(const std::string& name, double eps, const Vector& x) const {
    return weights_.RmsNorm(prefix_ + name, eps, x);
  }

 private:
  const ReferenceWeights& weights_;
  const std::string prefix_;
  const int32_t index_;
};

// One layer's mixer, token by token.
class ReferenceMixer {
 public:
  virtual ~ReferenceMixer() = default;
  virtual Vector Step(const Vector& x) = 0;
};

// Queries and keys are [key_heads, key_dim], values [heads, value_dim].
struct HeadSizes {
  // By num_heads, num_v_heads, head_dim (else a head's share of hidden_size),
  // expand_k, and value_dim or expand_v.
  explicit HeadSizes(const nlohmann::json& config);

  // Whose key and query the values of a head have.
  size_t KeyHead(size_t head) const { return head / (heads / key_heads); }

  size_t key_heads;
  size_t heads;
  size_t key_dim;
  size_t value_dim;
};

// Queries, keys and values by heads: q_proj, k_proj and v_proj and, where the
// configuration has use_short_conv, q_conv1d and so on over what they gave for
// this token and those before it, and SiLU.
class ReferenceQkv {
 public:
  struct Options {
    size_t writes = 1;         // keys and values of a token, write by write
    bool always_silu = false;  // without a convolution too
  };
  struct Heads {
    std::vector<Vector> q;
    std::vector<Vector> k;
    std::vector<Vector> v;
  };

  ReferenceQkv(const nlohmann::json& config,
               const ReferenceLayer& layer,
               const Options& options = {1, false});

  Heads Step(const Vector& x);

 private:
  Vector Part(const std::string& name, size_t rows, const Vector& x);
  Vector Convolved(const std::string& name, const Vector& now);

  const ReferenceLayer layer_;
  const HeadSizes sizes_;
  const Options options_;
  const size_t conv_width_;  // 0: none
  const bool conv_bias_;
  std::map<std::string, std::deque<Vector>> past_;
};

}  // namespace weir::engine
