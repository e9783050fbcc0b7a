// How the values of an activation are cut into tasks for the threads.
#pragma once

#include <algorithm>
#include <cstdint>

namespace kbn {

// An activation seen as (outer, channels, inner).
//
// If `inner` is long, every (outer, channel) is a plane, or several planes if it is very long, and
// tasks are ranges of planes. Otherwise a row contains all channels, at several positions if there
// are few channels, and tasks are ranges of rows, or ranges of lanes if rows are long. The cut
// depends only on the shape, and so does rounding: results do not depend on the number of threads.
class Plan {
 public:
  struct Rows {
    int64_t start, size, lane, lanes;  // `start` is the first row's first value of `lane`
  };

  Plan(int64_t outer, int64_t channels, int64_t inner)
      : channels_(channels), inner_(inner), size_(outer * channels * inner), count_(outer * inner) {
    const int64_t wanted = std::clamp<int64_t>(size_ / kTask, 1, kTasks);
    int64_t parts;
    if (planar()) {
      pieces_ = std::clamp<int64_t>(inner / kTask, 1, kTasks);
      parts = planes();
    } else {
      const int64_t position = std::max<int64_t>(channels * inner, 1);
      width_ = position * std::max<int64_t>(1, kWidth / position);
      parts = by_lanes() ? (width_ + kTile - 1) / kTile : (size_ + width_ - 1) / width_;
    }
    step_ = std::max<int64_t>(1, (parts + wanted - 1) / wanted);
    tasks_ = (parts + step_ - 1) / step_;
  }

  int64_t channels() const { return channels_; }
  int64_t count() const { return count_; }  // values per channel
  int64_t tasks() const { return tasks_; }
  bool planar() const { return inner_ >= kPlane; }
  int64_t width() const { return width_; }
  int64_t planes() const { return inner_ == 0 ? 0 : size_ / inner_ * pieces_; }

  // Index of the first channel's i-th value, and distance to the same value of the next channel.
  int64_t index(int64_t i) const { return i / inner_ * channels_ * inner_ + i % inner_; }
  int64_t stride() const { return inner_; }

  // Whether tasks are ranges of lanes, so that no two of them add to the same sums.
  bool by_lanes() const { return width_ >= kLong; }

  Rows rows(int64_t task) const {
    if (by_lanes()) {
      const int64_t lane = task * step_ * kTile;
      return {lane, size_ - lane, lane, std::min(step_ * kTile, width_ - lane)};
    }
    const int64_t start = task * step_ * width_;
    return {start, std::min(step_ * width_, size_ - start), 0, width_};
  }

  // Calls function(plane, channel, start, size) for every plane of a task.
  template <typename Function>
  void each_plane(int64_t task, Function function) const {
    const int64_t end = std::min((task + 1) * step_, planes());
    for (int64_t plane = task * step_; plane < end; ++plane) {
      const int64_t whole = plane / pieces_, piece = plane % pieces_;
      const int64_t from = inner_ * piece / pieces_, to = inner_ * (piece + 1) / pieces_;
      function(plane, whole % channels_, whole * inner_ + from, to - from);
    }
  }

  // Calls function(lane, channel) for every lane of a row, or for every plane if planar.
  template <typename Function>
  void each_lane(Function function) const {
    if (size_ == 0) return;
    const int64_t lanes = planar() ? planes() : width_, repeats = planar() ? pieces_ : inner_;
    for (int64_t lane = 0; lane < lanes;) {
      for (int64_t channel = 0; channel < channels_; ++channel) {
        for (int64_t i = 0; i < repeats; ++i) function(lane++, channel);
      }
    }
  }

 private:
  static constexpr int64_t kPlane = 16;    // from this number of values, a plane is worth a loop
  static constexpr int64_t kWidth = 256;   // approximate least number of lanes of a row
  static constexpr int64_t kLong = 8192;   // from this number of lanes, a row is cut
  static constexpr int64_t kTile = 512;    // into multiples of this number of lanes
  static constexpr int64_t kTask = 65536;  // approximate number of values of a task
  static constexpr int64_t kTasks = 64;

  int64_t channels_, inner_, size_, count_;
  int64_t width_ = 0, pieces_ = 1, step_ = 1, tasks_ = 1;
};

}  // namespace kbn
