// SPDX-License-Identifier: Apache-2.0
//
// Causal Linformer against its formula in fp64: of each prefix the slots E^T K
// and F^T V, and softmax attention over them.
#include "engine/mixers/linformer.h"

#include <cmath>
#include <span>
#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "tests/engine/config_case.h"
#include "tests/engine/formula_case.h"

namespace weir::engine {
namespace {

using nlohmann::json;

json Config() {
  return SmallDecoder("weir_linformer",
                      {{"num_heads", 2}, {"num_slots", 20}, {"n_max", 400}});
}

// With the inputs themselves in the slots where they are projected after: then
// K~ = W_k (E^T X) + b, as those who compress first have it.
class Reference final : public ReferenceMixer {
 public:
  Reference(const json& config, const ReferenceLayer& layer)
      : layer_(layer),
        sizes_(config),
        slots_(config.at("num_slots").get<size_t>()),
        n_max_(config.at("n_max").get<size_t>()),
        sharing_(config.value("sharing", "headwise")),
        first_(config.value("projection", "before") == "before"),
        segments_(config.value("past_n_max", "refuse") == "new_segment") {}

  Vector Step(const Vector& x) override {
    if (position_ == n_max_ && segments_) {
      position_ = 0;
      keys_.clear();
      values_.clear();
    }
    const size_t heads = sizes_.heads;
    const auto q = HeadsOf(Keys("q_proj", x), heads, sizes_.key_dim);
    const Vector k = first_ ? Keys("k_proj", x) : x;
    const Vector v = first_ ? Values(x) : x;
    keys_.resize(heads * slots_, Vector(k.size(), 0.0));
    values_.resize(heads * slots_, Vector(v.size(), 0.0));
    std::vector<Vector> o;
    for (size_t h = 0; h < heads; ++h) {
      const float* e = Row("_k", h);
      const float* f = Row("_v", h);
      Vector p;
      std::vector<Vector> read;
      for (size_t m = 0; m < slots_; ++m) {
        Vector& key = keys_[h * slots_ + m];
        Vector& value = values_[h * slots_ + m];
        key = Plus(key, Scaled(k, e[m]));
        value = Plus(value, Scaled(v, f[m]));
        const Vector all = first_ ? key : Keys("k_proj", key);
        p.push_back(Dot(q[h], HeadsOf(all, heads, sizes_.key_dim)[h]) /
                    std::sqrt(static_cast<double>(sizes_.key_dim)));
        read.push_back(HeadsOf(
            first_ ? value : Values(value), heads, sizes_.value_dim)[h]);
      }
      p = Softmax(p);
      o.emplace_back(sizes_.value_dim, 0.0);
      for (size_t m = 0; m < slots_; ++m) {
        o[h] = Plus(o[h], Scaled(read[m], p[m]));
      }
    }
    ++position_;
    return layer_.Project("o_proj", x.size(), Joined(o));
  }

 private:
  Vector Keys(const std::string& name, const Vector& x) const {
    return layer_.Project(name, sizes_.heads * sizes_.key_dim, x);
  }
  Vector Values(const Vector& x) const {
    return layer_.Project("v_proj", sizes_.heads * sizes_.value_dim, x);
  }

  // A head's row of E or F for this position.
  const float* Row(const std::string& which, size_t head) const {
    const bool of_heads = sharing_ == "none";
    std::vector<size_t> shape = {n_max_, slots_};
    if (of_heads) shape.insert(shape.begin(), sizes_.heads);
    const auto& matrix =
        layer_.Get("compress" + (sharing_ == "key_value" ? "" : which), shape);
    return matrix.data() +
           ((of_heads ? head * n_max_ : 0) + position_) * slots_;
  }

  const ReferenceLayer layer_;
  const HeadSizes sizes_;
  const size_t slots_;
  const size_t n_max_;
  const std::string sharing_;
  const bool first_;
  const bool segments_;
  size_t position_ = 0;
  std::vector<Vector> keys_;  // of each head's slots, and so the values
  std::vector<Vector> values_;
};

json Segments(int n_max) {
  json config = Config();
  config["past_n_max"] = "new_segment";
  config["n_max"] = n_max;
  return config;
}

json ProjectedAfter() {
  json config = Segments(70);
  config.update({{"sharing", "key_value"},
                 {"projection", "after"},
                 {"qkv_bias", true},
                 {"value_dim", 20}});
  return config;
}

INSTANTIATE_TEST_SUITE_P(
    Linformer,
    FormulaTest,
    testing::ValuesIn(FormulasOf<Reference>(
        Config(),
        {{"as_by_default"},
         {"of_heads",
          {{"sharing", "none"}, {"qkv_bias", true}, {"out_bias", true}}},
         {"projected_after", ProjectedAfter()},
         {"segments", Segments(64)},
         {"wide_segments_of_one",
          {{"past_n_max", "new_segment"}, {"n_max", 1}, {"num_slots", 64}}}})),
    FormulaName);

// Scores grow with the slots, which nothing norms, and saturate the softmax: a
// score of 1,000 in fp32 has four digits behind the point.
TEST(LinformerTest, HoldsOverManySegments) {
  ExpectLongStream(FormulaOf<Reference>("", Segments(300)), 0);
}

// A segment forgets all that was before it: what it gives does not depend on
// it, to the bit.
TEST(LinformerTest, ASegmentKnowsNothingOfThoseBeforeIt) {
  FormulaCase mixer(FormulaOf<Reference>("", Segments(64)));
  const auto x = mixer.Input(64);
  const auto before = mixer.Input(128);
  for (const int64_t piece : {1, 64}) {
    const int32_t fresh = mixer.NewSlot();
    const int32_t used = mixer.NewSlot();
    mixer.Feed(used, std::span(before).last(before.size() / 2), 64);

    EXPECT_EQ(mixer.Feed(used, x, piece), mixer.Feed(fresh, x, piece));
    mixer.pool().Release(fresh);
    mixer.pool().Release(used);
  }
}

// The service refuses such an append; a state that meets one all the same says
// so, and no row beyond the matrices is read.
TEST(LinformerTest, PastItsPositionsTheOutputsAreNaN) {
  json config = Config();
  config["n_max"] = 10;
  FormulaCase mixer(FormulaOf<Reference>("", config));
  const int32_t slot = mixer.NewSlot();
  const auto x = mixer.Input(12);

  const auto out = mixer.Feed(slot, x, 12);

  for (size_t i = 0; i < out.size(); ++i) {
    EXPECT_EQ(std::isnan(out[i]), i >= size_t{10} * 24) << i;
  }
}

TEST(ParseConfigTest, ReadsTheOptionsOfLinformer) {
  const LinformerShape shape = ShapeOf<Linformer>(Config());
  EXPECT_EQ(shape.slots, 20);
  EXPECT_EQ(shape.n_max, 400);
  EXPECT_EQ(shape.sharing, SlotSharing::kHeadwise);
  EXPECT_TRUE(shape.project_first);
  EXPECT_FALSE(shape.new_segment);
  EXPECT_EQ(Accepted(Config()).positions_max, 400u);

  const LinformerShape other = ShapeOf<Linformer>(ProjectedAfter());
  EXPECT_EQ(other.sharing, SlotSharing::kKeyValue);
  EXPECT_FALSE(other.project_first);
  EXPECT_TRUE(other.new_segment);
  EXPECT_EQ(other.qkv.value_dim, 20);
  EXPECT_EQ(Accepted(ProjectedAfter()).positions_max, 0u);
}

TEST(ParseConfigTest, RefusesLinformerValuesOutOfRangeByTheirKey) {
  ExpectRefused(Config(),
                {
                    {"num_slots", "0"},
                    {"num_slots", "1025"},
                    {"num_slots", "null"},
                    {"n_max", "0"},
                    {"n_max", "1048577"},
                    {"n_max", "null"},
                    {"sharing", "\"layerwise\""},
                    {"projection", "\"both\""},
                    {"past_n_max", "\"wrap\""},
                    {"past_n_max", "true"},
                    {"dropout", "0.1"},
                },
                {kBadFlaDecoder, kBadPlainQkv});
}

}  // namespace
}  // namespace weir::engine
