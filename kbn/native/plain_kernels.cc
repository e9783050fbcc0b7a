// Batch normalization of plain arrays, for libraries that give out pointers to their data.
//
// An activation is an array of dtype `type`, seen as (outer, channels, inner). All other arrays are
// float32 with one value per channel. The functions return whether they succeeded; they fail if the
// type is unknown or if there is no memory.

#include <exception>

#include "batch_norm.h"
#include "memory.h"

#define KBN_EXPORT extern "C" __attribute__((visibility("default")))

namespace {

using kbn::Floats;
using kbn::Plan;

enum Type : int { kFloat32 = 0, kBFloat16 = 1, kFloat16 = 2 };

struct Shape {
  int type;
  int64_t outer, channels, inner;

  Plan plan() const { return Plan(outer, channels, inner); }
};

// The arrays of moments, which a caller keeps between the two passes.
struct Statistics {
  float *mean, *rest, *variance;

  kbn::Moments read(int64_t channels) const {
    kbn::Moments found(channels);
    std::copy(mean, mean + channels, found.mean.begin());
    if (rest != nullptr) std::copy(rest, rest + channels, found.rest.begin());
    std::copy(variance, variance + channels, found.variance.begin());
    return found;
  }
  void write(const kbn::Moments& found) const {
    std::copy(found.mean.begin(), found.mean.end(), mean);
    std::copy(found.rest.begin(), found.rest.end(), rest);
    std::copy(found.variance.begin(), found.variance.end(), variance);
  }
};

template <typename T>
void normalize_as(const Shape& shape, const void* data, const float* gamma, const float* beta,
                  float epsilon, bool training, const Statistics& statistics, void* outputs) {
  const Plan plan = shape.plan();
  const T* x = static_cast<const T*>(data);
  T* y = static_cast<T*>(outputs);
  kbn::prefer_huge_pages(y, plan.count() * plan.channels() * sizeof(T));
  if (training) statistics.write(kbn::moments(plan, x));
  const kbn::Moments by = statistics.read(plan.channels());
  kbn::map<false>(plan, x, x, kbn::normalizing(by, gamma, beta, epsilon), y);
}

template <typename T>
void gradients_as(const Shape& shape, const void* data, const void* upstream, const float* gamma,
                  float epsilon, bool training, const Statistics& statistics, void* dx,
                  float* dgamma, float* dbeta) {
  const Plan plan = shape.plan();
  const T *x = static_cast<const T*>(data), *dy = static_cast<const T*>(upstream);
  kbn::prefer_huge_pages(dx, plan.count() * plan.channels() * sizeof(T));
  const kbn::Gradients found =
      kbn::gradients(plan, x, dy, statistics.read(plan.channels()), gamma, epsilon);
  std::copy(found.gamma.begin(), found.gamma.end(), dgamma);
  std::copy(found.beta.begin(), found.beta.end(), dbeta);
  kbn::write_gradient(plan, x, dy, found, training, static_cast<T*>(dx));
}

// Calls function(T()) with the type of the activation. No exception may reach the caller.
template <typename Function>
int with_type(int type, Function function) {
  try {
    if (type == kFloat32) return function(float()), 1;
    if (type == kBFloat16) return function(kbn::BFloat16()), 1;
    if (type == kFloat16) return function(kbn::Half()), 1;
  } catch (const std::exception&) {
  }
  return 0;
}

}  // namespace

// Sets the number of threads that the kernels may use.
KBN_EXPORT void kbn_set_threads(int threads) { kbn::Pool::shared().set_threads(threads); }

// Makes the kernels use the threads of the loaded OpenMP library. Returns whether there is one.
KBN_EXPORT int kbn_use_openmp() { return kbn::Pool::shared().use_openmp(); }

// y = gamma·(x − mean)/√(variance + ε) + beta. In training, mean and variance are computed from x
// and written, and `rest` gets the rounding error of the mean. In inference, they are read, and
// `rest` may be null.
KBN_EXPORT int kbn_normalize(int type, const void* x, int64_t outer, int64_t channels,
                             int64_t inner, const float* gamma, const float* beta, float epsilon,
                             int training, float* mean, float* rest, float* variance, void* y) {
  return with_type(type, [&](auto as) {
    normalize_as<decltype(as)>({type, outer, channels, inner}, x, gamma, beta, epsilon,
                               training != 0, {mean, rest, variance}, y);
  });
}

// The gradients of x, gamma and beta, given dy, that of y, and the arrays of kbn_normalize.
KBN_EXPORT int kbn_gradients(int type, const void* x, const void* dy, int64_t outer,
                             int64_t channels, int64_t inner, const float* gamma, float epsilon,
                             int training, float* mean, float* rest, float* variance, void* dx,
                             float* dgamma, float* dbeta) {
  return with_type(type, [&](auto as) {
    gradients_as<decltype(as)>({type, outer, channels, inner}, x, dy, gamma, epsilon,
                               training != 0, {mean, rest, variance}, dx, dgamma, dbeta);
  });
}
