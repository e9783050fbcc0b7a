// Batch normalization over an activation of any layout, built on the loops of loops.h.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <utility>
#include <vector>

#include "dispatch.h"
#include "parallel.h"
#include "plan.h"

namespace kbn {

using Floats = std::vector<float>;  // one per channel

struct Sums {
  std::vector<double> first, second;  // one per channel
};

// One value per channel, repeated along the lanes of a row. If each lane is a channel, the values
// are not copied.
class Lanes {
 public:
  Lanes(const Plan& plan, const Floats& values) : values_(values.data()) {
    if (plan.planar() || plan.width() == plan.channels()) return;
    spread_.resize(plan.width());
    plan.each_lane([&](int64_t lane, int64_t channel) { spread_[lane] = values[channel]; });
    values_ = spread_.data();
  }
  const float* from(int64_t lane) const { return values_ + lane; }

 private:
  const float* values_;
  Floats spread_;
};

// The sums of loops.h per channel. The order of additions does not depend on the threads.
template <bool kGradient, typename T>
Sums sum(const Plan& plan, const T* x, const T* dy, const Floats& pivot) {
  const Loops<T, kGradient>& loops = Loops<T, kGradient>::best();
  const int64_t width = plan.planar() ? plan.planes() : plan.width();
  const int64_t copies = plan.planar() || plan.by_lanes() ? 1 : std::max<int64_t>(plan.tasks(), 1);
  std::vector<double> first(copies * width), second(copies * width);
  const Lanes pivots(plan, pivot);
  Pool::shared().run(plan.tasks(), [&](int64_t task) {
    if (plan.planar()) {
      plan.each_plane(task, [&](int64_t plane, int64_t channel, int64_t start, int64_t size) {
        loops.sum_plane(x + start, dy + start, pivot[channel], size, &first[plane],
                        &second[plane]);
      });
    } else {
      const Plan::Rows rows = plan.rows(task);
      const int64_t at = (copies == 1 ? 0 : task * width) + rows.lane;
      loops.sum_rows(x + rows.start, dy + rows.start, pivots.from(rows.lane), rows.size, width,
                     rows.lanes, &first[at], &second[at]);
    }
  });
  for (int64_t copy = 1; copy < copies; ++copy) {
    for (int64_t lane = 0; lane < width; ++lane) {
      first[lane] += first[copy * width + lane];
      second[lane] += second[copy * width + lane];
    }
  }
  if (width == plan.channels()) return {std::move(first), std::move(second)};
  Sums sums{std::vector<double>(plan.channels()), std::vector<double>(plan.channels())};
  plan.each_lane([&](int64_t lane, int64_t channel) {
    sums.first[channel] += first[lane];
    sums.second[channel] += second[lane];
  });
  return sums;
}

// The coefficients of (x − mean)·scale + bias, or dy·factor − (x − mean)·scale + bias.
struct Coefficients {
  Floats mean, factor, scale, bias;

  explicit Coefficients(int64_t channels)
      : mean(channels), factor(channels), scale(channels), bias(channels) {}
};

template <bool kGradient, typename T>
void map(const Plan& plan, const T* x, const T* dy, const Coefficients& by, T* y) {
  const Loops<T, kGradient>& loops = Loops<T, kGradient>::best();
  const Lanes mean(plan, by.mean), factor(plan, by.factor), scale(plan, by.scale);
  const Lanes bias(plan, by.bias);
  Pool::shared().run(plan.tasks(), [&](int64_t i) {
    // Go backwards, because the caches still contain the values that the sums read last.
    const int64_t task = plan.tasks() - 1 - i;
    if (plan.planar()) {
      plan.each_plane(task, [&](int64_t, int64_t c, int64_t start, int64_t size) {
        loops.map_plane(x + start, dy + start, by.mean[c], by.factor[c], by.scale[c], by.bias[c],
                        size, y + start);
      });
    } else {
      const Plan::Rows rows = plan.rows(task);
      const int64_t lane = rows.lane;
      loops.map_rows(x + rows.start, dy + rows.start, mean.from(lane), factor.from(lane),
                     scale.from(lane), bias.from(lane), rows.size, plan.width(), rows.lanes, y + rows.start);
    }
  });
}

// Moments of a batch, one per channel. The mean is mean + rest, because one float is not precise
// enough for a large mean.
struct Moments {
  Floats mean, rest, variance;

  explicit Moments(int64_t channels) : mean(channels), rest(channels), variance(channels) {}
};

// A number close to each channel's mean: the mean of up to kSample values spread over the batch.
// By the Cauchy-Schwarz inequality, it is always within √(m/kSample) standard deviations of it.
template <typename T>
Floats pivot_of(const Plan& plan, const T* x) {
  constexpr int64_t kSample = 32;
  const int64_t samples = std::min(kSample, plan.count()), stride = plan.stride();
  Floats pivot(plan.channels());
  for (int64_t s = 0; s < samples; ++s) {
    const T* values = x + plan.index(plan.count() * s / samples);
    if (stride == 1) {  // a case of its own, so that the compiler vectorizes it
      for (size_t c = 0; c < pivot.size(); ++c) pivot[c] += to_float(values[c]);
    } else {
      for (size_t c = 0; c < pivot.size(); ++c) pivot[c] += to_float(values[c * stride]);
    }
  }
  for (float& value : pivot) value /= samples;
  return pivot;
}

// One pass over x: sums of x − pivot and its square (Chan, Golub & LeVeque 1983, shifted data).
template <typename T>
Moments moments(const Plan& plan, const T* x) {
  const Floats pivot = pivot_of(plan, x);
  const Sums sums = sum<false>(plan, x, x, pivot);
  Moments result(plan.channels());
  const double m = plan.count();
  for (int64_t c = 0; c < plan.channels(); ++c) {
    const double offset = sums.first[c] / m, mean = pivot[c] + offset;
    const double variance = sums.second[c] / m - offset * offset;
    result.mean[c] = mean;
    result.rest[c] = mean - result.mean[c];
    result.variance[c] = variance < 0 ? 0 : variance;  // NaN stays NaN
  }
  return result;
}

// The coefficients that normalize with `by` moments: gamma·(x − mean)/√(variance + ε) + beta.
inline Coefficients normalizing(const Moments& by, const float* gamma, const float* beta,
                                float epsilon) {
  Coefficients to(by.mean.size());
  to.mean = by.mean;
  for (size_t c = 0; c < by.mean.size(); ++c) {
    to.scale[c] = gamma[c] / std::sqrt(static_cast<double>(by.variance[c]) + epsilon);
    to.bias[c] = beta[c] - by.rest[c] * to.scale[c];
  }
  return to;
}

// The gradients of gamma and beta, and the coefficients from which `map<true>` computes that of x.
struct Gradients {
  Coefficients dx;
  Floats gamma, beta;

  explicit Gradients(int64_t channels) : dx(channels), gamma(channels), beta(channels) {}
};

// The gradients of a batch that was normalized with its own moments (Ioffe & Szegedy 2015, §3).
// With x̂ = (x − mean)·s and s = 1/√(variance + ε), that of x is
//   gamma·s·(dy − mean(dy) − x̂·mean(dy·x̂)).
template <typename T>
Gradients gradients(const Plan& plan, const T* x, const T* dy, const Moments& of,
                    const float* gamma, float epsilon) {
  Gradients found(plan.channels());
  Coefficients& by = found.dx;
  by.mean = of.mean;
  const Sums sums = sum<true>(plan, x, dy, by.mean);
  const double m = plan.count();
  // For an empty batch all sums are 0, and its moments must not be used.
  for (int64_t c = 0; c < plan.channels() && plan.count() > 0; ++c) {
    const double s = 1.0 / std::sqrt(static_cast<double>(of.variance[c]) + epsilon);
    const double rest = of.rest[c];
    const double projection = s * (sums.second[c] - rest * sums.first[c]);
    found.gamma[c] = projection;
    found.beta[c] = sums.first[c];
    const double factor = gamma[c] * s, slope = factor * s * projection / m;
    by.factor[c] = factor;
    by.scale[c] = slope;
    by.bias[c] = slope * rest - factor * sums.first[c] / m;
  }
  return found;
}

// Writes the gradient of x: in training as `gradients` says, in inference gamma/√(variance + ε)·dy.
template <typename T>
void write_gradient(const Plan& plan, const T* x, const T* dy, const Gradients& found,
                    bool training, T* dx) {
  if (training) {
    map<true>(plan, x, dy, found.dx, dx);
    return;
  }
  Coefficients frozen(plan.channels());
  frozen.scale = found.dx.factor;
  map<false>(plan, dy, dy, frozen, dx);
}

}  // namespace kbn
