// SPDX-License-Identifier: Apache-2.0
#include "tests/engine/reference_mixer.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "base/check.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace weir::engine {

using nlohmann::json;

double Sigmoid(double x) { return 1 / (1 + std::exp(-x)); }
double Silu(double x) { return x * Sigmoid(x); }
double Softplus(double x) {
  return std::fmax(x, 0) + std::log1p(std::exp(-std::fabs(x)));
}
double EluPlusOne(double x) { return x > 0 ? x + 1 : std::exp(x); }

Vector Each(double (*function)(double), Vector x) {
  for (double& value : x) value = function(value);
  return x;
}

Vector Scaled(Vector x, double factor) {
  for (double& value : x) value *= factor;
  return x;
}

Vector Plus(Vector x, const Vector& y) {
  WEIR_CHECK(x.size() == y.size());
  for (size_t i = 0; i < x.size(); ++i) x[i] += y[i];
  return x;
}

Vector Times(Vector x, const Vector& y) {
  WEIR_CHECK(x.size() == y.size());
  for (size_t i = 0; i < x.size(); ++i) x[i] *= y[i];
  return x;
}

double Dot(const Vector& x, const Vector& y) {
  WEIR_CHECK(x.size() == y.size());
  double sum = 0;
  for (size_t i = 0; i < x.size(); ++i) sum += x[i] * y[i];
  return sum;
}

Vector Softmax(Vector x) {
  const double high = *std::max_element(x.begin(), x.end());
  double sum = 0;
  for (double& value : x) sum += value = std::exp(value - high);
  for (double& value : x) value /= sum;
  return x;
}

Vector UnitLength(const Vector& x) {
  return Scaled(x, 1 / std::sqrt(Dot(x, x) + 1e-6));
}

std::vector<Vector> HeadsOf(const Vector& x, size_t heads, size_t dim) {
  WEIR_CHECK(x.size() == heads * dim);
  std::vector<Vector> out;
  for (auto at = x.begin(); at != x.end(); at += static_cast<int64_t>(dim)) {
    out.emplace_back(at, at + static_cast<int64_t>(dim));
  }
  return out;
}

Vector Joined(const std::vector<Vector>& heads) {
  Vector out;
  for (const Vector& head : heads) {
    out.insert(out.end(), head.begin(), head.end());
  }
  return out;
}

void DenseState::Decay(const Vector& d) {
  WEIR_CHECK(d.size() == keys_);
  for (size_t i = 0; i < keys_; ++i) {
    for (size_t j = 0; j < values_; ++j) s_[i * values_ + j] *= d[i];
  }
}

void DenseState::Write(const Vector& k, const Vector& v) {
  WEIR_CHECK(k.size() == keys_ && v.size() == values_);
  for (size_t i = 0; i < keys_; ++i) {
    for (size_t j = 0; j < values_; ++j) s_[i * values_ + j] += k[i] * v[j];
  }
}

Vector DenseState::Read(const Vector& x) const {
  WEIR_CHECK(x.size() == keys_);
  Vector y(values_, 0.0);
  for (size_t i = 0; i < keys_; ++i) {
    for (size_t j = 0; j < values_; ++j) y[j] += s_[i * values_ + j] * x[i];
  }
  return y;
}

Vector DenseState::Row(size_t i) const {
  WEIR_CHECK(i < keys_);
  const auto at = s_.begin() + static_cast<int64_t>(i * values_);
  return {at, at + static_cast<int64_t>(values_)};
}

void ReferenceWeights::Add(const std::string& name,
                           const std::vector<int64_t>& shape,
                           std::vector<float> values) {
  tensors_[name] = {.shape = {shape.begin(), shape.end()},
                    .values = std::move(values)};
}

const std::vector<float>& ReferenceWeights::Get(
    const std::string& name, const std::vector<size_t>& shape) const {
  const auto it = tensors_.find(name);
  EXPECT_NE(it, tensors_.end()) << name;
  WEIR_CHECK(it != tensors_.end());
  if (it->second.shape != shape) {
    EXPECT_THAT(it->second.shape, testing::ElementsAreArray(shape)) << name;
    WEIR_CHECK(it->second.shape == shape);
  }
  read_.insert(name);
  return it->second.values;
}

Vector ReferenceWeights::Project(const std::string& name,
                                 size_t rows,
                                 const Vector& x) const {
  const auto& weight = Get(name + ".weight", {rows, x.size()});
  Vector y(rows, 0.0);
  for (size_t r = 0; r < y.size(); ++r) {
    for (size_t c = 0; c < x.size(); ++c)
      y[r] += weight[r * x.size() + c] * x[c];
  }
  if (!tensors_.contains(name + ".bias")) return y;
  const auto& bias = Get(name + ".bias", {rows});
  for (size_t r = 0; r < y.size(); ++r) y[r] += bias[r];
  return y;
}

Vector ReferenceWeights::RmsNorm(const std::string& name,
                                 double eps,
                                 const Vector& x) const {
  const auto& weight = Get(name + ".weight", {x.size()});
  const double square = Dot(x, x) / static_cast<double>(x.size());
  return Scaled(Times(x, Vector(weight.begin(), weight.end())),
                1 / std::sqrt(square + eps));
}

std::vector<std::string> ReferenceWeights::Unread() const {
  std::vector<std::string> names;
  for (const auto& [name, tensor] : tensors_) {
    if (!read_.contains(name)) names.push_back(name);
  }
  return names;
}

HeadSizes::HeadSizes(const json& config)
    : key_heads(config.at("num_heads").get<size_t>()),
      heads(config.value("num_v_heads", key_heads)) {
  const size_t share = config.at("hidden_size").get<size_t>() / key_heads;
  const auto dim = static_cast<double>(config.value("head_dim", share));
  const auto times = [&](const char* factor) {
    return static_cast<size_t>(std::lround(dim * config.value(factor, 1.0)));
  };
  key_dim = times("expand_k");
  value_dim = config.value("value_dim", times("expand_v"));
}

ReferenceQkv::ReferenceQkv(const json& config,
                           const ReferenceLayer& layer,
                           const Options& options)
    : layer_(layer),
      sizes_(config),
      options_(options),
      conv_width_(config.value("use_short_conv", false)
                      ? config.at("conv_size").get<size_t>()
                      : 0),
      conv_bias_(config.value("conv_bias", false)) {}

ReferenceQkv::Heads ReferenceQkv::Step(const Vector& x) {
  const size_t writes = options_.writes;
  const auto part = [&](const char* name, size_t heads, size_t dim) {
    return HeadsOf(Part(name, heads * dim, x), heads, dim);
  };
  return {.q = part("q", sizes_.key_heads, sizes_.key_dim),
          .k = part("k", writes * sizes_.key_heads, sizes_.key_dim),
          .v = part("v", writes * sizes_.heads, sizes_.value_dim)};
}

Vector ReferenceQkv::Part(const std::string& name,
                          size_t rows,
                          const Vector& x) {
  const Vector now = layer_.Project(name + "_proj", rows, x);
  if (conv_width_ > 0) return Each(Silu, Convolved(name + "_conv1d", now));
  return options_.always_silu ? Each(Silu, now) : now;
}

Vector ReferenceQkv::Convolved(const std::string& name, const Vector& now) {
  std::deque<Vector>& past = past_[name];
  past.resize(conv_width_, Vector(now.size(), 0.0));
  past.pop_front();
  past.push_back(now);
  const auto& taps = layer_.Get(name + ".weight", {now.size(), 1, conv_width_});
  Vector out(now.size(), 0.0);
  if (conv_bias_) {
    const auto& bias = layer_.Get(name + ".bias", {now.size()});
    out.assign(bias.begin(), bias.end());
  }
  for (size_t c = 0; c < now.size(); ++c) {
    for (size_t w = 0; w < conv_width_; ++w) {
      out[c] += taps[c * conv_width_ + w] * past[w][c];
    }
  }
  return out;
}

}  // namespace weir::engine
