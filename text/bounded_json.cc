// SPDX-License-Identifier: Apache-2.0
#include "text/bounded_json.h"

#include <string>
#include <utility>
#include <vector>

#include "text/refusal.h"

namespace weir::text {
namespace {

using nlohmann::json;

// Builds the tree as the values come, so that a breach ends both at once.
class Builder final : public nlohmann::json_sax<json> {
 public:
  explicit Builder(const JsonBounds& bounds) : bounds_(bounds) {}

  const absl::Status& status() const { return status_; }
  json& root() { return root_; }

  bool null() override { return Put(nullptr) != nullptr; }
  bool boolean(bool value) override { return Put(value) != nullptr; }
  bool number_integer(number_integer_t value) override {
    return Put(value) != nullptr;
  }
  bool number_unsigned(number_unsigned_t value) override {
    return Put(value) != nullptr;
  }
  bool number_float(number_float_t value, const string_t&) override {
    return Put(value) != nullptr;
  }
  bool string(string_t& value) override {
    return Put(std::move(value)) != nullptr;
  }
  bool binary(binary_t&) override { return Fail(Refusal("a binary value")); }
  bool start_object(size_t) override { return Enter(json::object()); }
  bool end_object() override { return Leave(); }
  bool start_array(size_t) override { return Enter(json::array()); }
  bool end_array() override { return Leave(); }

  bool key(string_t& name) override {
    if (!Count()) return false;
    auto& object = open_.back()->get_ref<json::object_t&>();
    const auto [found, added] = object.emplace(name, nullptr);
    slot_ = &found->second;
    return added || Fail(Refusal("the key ", Quoted(name), " stands twice"));
  }

  bool parse_error(size_t position,
                   const std::string&,
                   const nlohmann::detail::exception&) override {
    return Fail(Refusal("not JSON at byte ", position));
  }

 private:
  bool Fail(absl::Status status) {
    if (status_.ok()) status_ = std::move(status);
    return false;
  }

  bool Count() {
    if (++values_ <= bounds_.values) return true;
    return Fail(Refusal("more than ", bounds_.values, " values"));
  }

  // Puts a value where one is due; null if there is no room.
  json* Put(json value) {
    if (!Count()) return nullptr;
    if (open_.empty()) return &(root_ = std::move(value));
    if (open_.back()->is_array()) {
      return &open_.back()->get_ref<json::array_t&>().emplace_back(
          std::move(value));
    }
    return &(*slot_ = std::move(value));
  }

  bool Enter(json container) {
    if (open_.size() >= bounds_.depth) {
      return Fail(Refusal("deeper than ", bounds_.depth, " levels"));
    }
    json* const place = Put(std::move(container));
    if (place == nullptr) return false;
    open_.push_back(place);
    return true;
  }

  bool Leave() {
    open_.pop_back();
    return true;
  }

  const JsonBounds bounds_;
  absl::Status status_;
  size_t values_ = 0;
  json root_;
  std::vector<json*> open_;  // from the root to where values go
  json* slot_ = nullptr;     // the value of the last key
};

}  // namespace

absl::StatusOr<json> ParseBoundedJson(std::string_view text,
                                      const JsonBounds& bounds) {
  Builder builder(bounds);
  if (!json::sax_parse(text.begin(), text.end(), &builder)) {
    return builder.status().ok() ? Refusal("not JSON") : builder.status();
  }
  return std::move(builder.root());
}

}  // namespace weir::text
