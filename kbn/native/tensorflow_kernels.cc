// kbn's CPU kernels for TensorFlow's FusedBatchNormV3 and FusedBatchNormGradV3.
//
// They implement these ops with the same inputs and outputs, so graphs contain only TensorFlow's
// ops. Without kbn, a saved model runs on TensorFlow's kernels. kbn's kernels are faster, because
// each makes one pass less, and they are exact if the mean is large relative to the spread.

#include <cstring>
#include <exception>

#include "batch_norm.h"
#include "memory.h"
#include "tensorflow_c.h"

namespace {

using kbn::Floats;
using kbn::Plan;
using tf::api;

constexpr int kInvalidArgument = 3, kResourceExhausted = 8;

struct Attributes {
  float epsilon = 0, factor = 1;
  bool training = true, channels_first = false;
};

// A status that deletes itself.
class Status {
 public:
  Status() : status_(api.NewStatus()) {}
  ~Status() { api.DeleteStatus(status_); }
  Status(const Status&) = delete;
  tf::Status* get() { return status_; }
  bool ok() const { return api.GetCode(status_) == 0; }
  void refuse(int code, const char* reason) { api.SetStatus(status_, code, reason); }

 private:
  tf::Status* status_;
};

// Data, size and shape of a tensor. The handle is deleted at once: the context keeps inputs and
// outputs while the kernel runs, and can reuse an input's buffer only if there is no other handle.
class Tensor {
 public:
  Tensor() = default;
  explicit Tensor(tf::Tensor* handle) {
    if (handle == nullptr) return;
    data_ = api.TensorData(handle);
    size_ = api.TensorElementCount(handle);
    for (int i = 0; i < api.NumDims(handle); ++i) shape_.push_back(api.Dim(handle, i));
    valid_ = true;
    api.DeleteTensor(handle);
  }
  template <typename T>
  T* data() const {
    return static_cast<T*>(data_);
  }
  int64_t size() const { return size_; }
  const std::vector<int64_t>& shape() const { return shape_; }
  explicit operator bool() const { return valid_; }

 private:
  void* data_ = nullptr;
  int64_t size_ = 0;
  std::vector<int64_t> shape_;
  bool valid_ = false;
};

template <typename T>
struct TypeOf;
template <>
struct TypeOf<float> {
  static constexpr int value = tf::kFloat;
};
template <>
struct TypeOf<kbn::BFloat16> {
  static constexpr int value = tf::kBFloat16;
};
template <>
struct TypeOf<kbn::Half> {
  static constexpr int value = tf::kHalf;
};

// One call of a kernel: its inputs, its outputs and its status.
class Call {
 public:
  explicit Call(tf::Context* context) : context_(context) {}

  Tensor input(int i) {
    tf::Tensor* tensor = nullptr;
    if (status_.ok()) api.GetInput(context_, i, &tensor, status_.get());
    return Tensor(tensor);
  }

  template <typename T>
  Tensor output(int i, const int64_t* shape, int rank) {
    size_t bytes = sizeof(T);
    for (int k = 0; k < rank; ++k) bytes *= shape[k];
    if (!status_.ok()) return Tensor();
    return Tensor(api.AllocateOutput(context_, i, TypeOf<T>::value, shape, rank, bytes,
                                     status_.get()));
  }

  // Output 0. It reuses the buffer of an input of the same shape if nothing else needs that input.
  // This is safe, because every value is read before it is written.
  template <typename T>
  Tensor output_over(int input, const Tensor& like) {
    const std::vector<int64_t>& shape = like.shape();
    int forwarded = -1;
    if (!status_.ok()) return Tensor();
    const Tensor tensor(api.ForwardInputOrAllocateOutput(context_, &input, 1, 0, shape.data(),
                                                         shape.size(), &forwarded, status_.get()));
    if (tensor && forwarded < 0) {
      kbn::prefer_huge_pages(tensor.data<T>(), tensor.size() * sizeof(T));
    }
    return tensor;
  }

  // Writes output i, one value per channel.
  void write(int i, const Floats& values) {
    const int64_t size = values.size();
    const Tensor tensor = output<float>(i, &size, 1);
    if (tensor) std::copy(values.begin(), values.end(), tensor.data<float>());
  }

  bool ok() const { return status_.ok(); }
  void fail(int code, const char* reason) { status_.refuse(code, reason); }
  bool require(bool condition, const char* reason) {
    if (status_.ok() && !condition) status_.refuse(kInvalidArgument, reason);
    return status_.ok();
  }
  ~Call() {
    if (!status_.ok()) api.OpKernelContext_Failure(context_, status_.get());
  }

 private:
  tf::Context* context_;
  Status status_;
};

Plan plan_of(const Tensor& x, bool channels_first) {
  const int64_t a = x.shape()[0], b = x.shape()[1], c = x.shape()[2], d = x.shape()[3];
  return channels_first ? Plan(a, b, c * d) : Plan(a * b * c, d, 1);
}

bool per_channel(const Tensor& values, const Plan& plan) {
  return values.shape().size() == 1 && values.size() == plan.channels();
}

Floats vector_of(const Tensor& values) {
  const float* data = values.data<float>();
  return Floats(data, data + values.size());
}

// new·factor + old·(1 − factor), as the op defines it. With factor 1, old is not read.
Floats averaged(const Floats& now, const Tensor& old, float factor) {
  Floats result = now;
  if (factor == 1.0f) return result;
  for (size_t c = 0; c < now.size(); ++c) {
    result[c] = now[c] * factor + old.data<float>()[c] * (1.0f - factor);
  }
  return result;
}

// x, scale, offset, mean, variance -> y, batch_mean, batch_variance, reserve_1, reserve_2, reserve_3
//
// As in TensorFlow's CPU kernel, batch_variance has the factor m/(m−1), and reserve_1 and
// reserve_2 are the mean and the biased variance. TensorFlow's kernel leaves reserve_3 empty. Here
// it is the rounding error of the mean.
template <typename T>
void forward(const Attributes& attribute, Call& call) {
  const Tensor x = call.input(0), scale = call.input(1), offset = call.input(2);
  const Tensor mean = call.input(3), variance = call.input(4);
  if (!call.require(x && variance && x.shape().size() == 4, "FusedBatchNorm: x must have 4 dimensions")) {
    return;
  }
  const Plan plan = plan_of(x, attribute.channels_first);
  const bool reads = !attribute.training || attribute.factor != 1.0f;
  if (!call.require(per_channel(scale, plan) && per_channel(offset, plan) &&
                        (!reads || (per_channel(mean, plan) && per_channel(variance, plan))),
                    "FusedBatchNorm: scale, offset, mean and variance need a value per channel")) {
    return;
  }
  const int64_t channels = plan.channels();
  kbn::Moments batch(channels);
  Floats kept;
  if (attribute.training) {
    batch = kbn::moments(plan, x.data<T>());
    const double m = plan.count(), unbias = m / std::max(m - 1.0, 1.0);
    kept = batch.variance;
    for (float& value : kept) value *= unbias;
    call.write(1, averaged(batch.mean, mean, attribute.factor));
    call.write(2, averaged(kept, variance, attribute.factor));
  } else {
    batch.mean = vector_of(mean);
    batch.variance = vector_of(variance);
    call.write(1, batch.mean);
    call.write(2, batch.variance);
  }
  call.write(3, batch.mean);
  call.write(4, batch.variance);
  call.write(5, attribute.training ? batch.rest : Floats());
  const Tensor y = call.output_over<T>(0, x);
  if (!call.ok()) return;
  const kbn::Coefficients by =
      kbn::normalizing(batch, scale.data<float>(), offset.data<float>(), attribute.epsilon);
  kbn::map<false>(plan, x.data<T>(), x.data<T>(), by, y.data<T>());
}

// dy, x, scale, reserve_1, reserve_2, reserve_3 -> dx, dscale, doffset, empty, empty
//
template <typename T>
void backward(const Attributes& attribute, Call& call) {
  const Tensor dy = call.input(0), x = call.input(1), scale = call.input(2);
  const Tensor reserve_1 = call.input(3), reserve_2 = call.input(4), reserve_3 = call.input(5);
  if (!call.require(x && reserve_3 && x.shape().size() == 4 && dy.shape() == x.shape(),
                    "FusedBatchNormGrad: y_backprop and x must have the same 4 dimensions")) {
    return;
  }
  const Plan plan = plan_of(x, attribute.channels_first);
  if (!call.require(per_channel(scale, plan) && per_channel(reserve_1, plan) &&
                        per_channel(reserve_2, plan),
                    "FusedBatchNormGrad: scale and reserves need a value per channel")) {
    return;
  }
  kbn::Moments batch(plan.channels());
  batch.mean = vector_of(reserve_1);
  batch.variance = vector_of(reserve_2);
  const bool exact = attribute.training && per_channel(reserve_3, plan);
  if (exact) batch.rest = vector_of(reserve_3);
  const kbn::Gradients found = kbn::gradients(plan, x.data<T>(), dy.data<T>(), batch,
                                              scale.data<float>(), attribute.epsilon);
  call.write(1, found.gamma);
  call.write(2, found.beta);
  call.write(3, {});
  call.write(4, {});
  const Tensor dx = call.output_over<T>(0, x);
  if (!call.ok()) return;
  kbn::write_gradient(plan, x.data<T>(), dy.data<T>(), found, attribute.training, dx.data<T>());
}

// Runs forward or backward. No exception may reach TensorFlow's C code.
template <void (*kKernel)(const Attributes&, Call&)>
void compute(void* attributes, tf::Context* context) {
  Call call(context);
  try {
    kKernel(*static_cast<Attributes*>(attributes), call);
  } catch (const std::exception& error) {
    call.fail(kResourceExhausted, error.what());
  }
}

template <bool kAveraging>
void* create(tf::Construction* construction) {
  Status status;
  auto* attributes = new Attributes;
  unsigned char training = 1;
  char format[8] = {};
  api.OpKernelConstruction_GetAttrFloat(construction, "epsilon", &attributes->epsilon,
                                        status.get());
  if (status.ok()) {
    api.OpKernelConstruction_GetAttrBool(construction, "is_training", &training, status.get());
  }
  if (status.ok()) {
    api.OpKernelConstruction_GetAttrString(construction, "data_format", format, sizeof format - 1,
                                           status.get());
  }
  if (kAveraging && status.ok()) {
    api.OpKernelConstruction_GetAttrFloat(construction, "exponential_avg_factor",
                                          &attributes->factor, status.get());
  }
  attributes->training = training != 0;
  attributes->channels_first = std::strncmp(format, "NCHW", 4) == 0;
  if (!status.ok()) api.OpKernelConstruction_Failure(construction, status.get());
  return attributes;
}

void destroy(void* attributes) { delete static_cast<Attributes*>(attributes); }

template <typename T>
bool add(const char* op, const char* label, bool gradient) {
  Status status;
  tf::KernelBuilder* builder =
      gradient ? api.NewKernelBuilder(op, "CPU", create<false>, compute<backward<T>>, destroy)
               : api.NewKernelBuilder(op, "CPU", create<true>, compute<forward<T>>, destroy);
  api.KernelBuilder_TypeConstraint(builder, "T", TypeOf<T>::value, status.get());
  if (!status.ok()) return false;
  api.KernelBuilder_TypeConstraint(builder, "U", tf::kFloat, status.get());
  if (!status.ok()) return false;
  if (label != nullptr) api.KernelBuilder_Label(builder, label);
  api.KernelBuilder_Priority(builder, 1);  // TensorFlow's own kernels have 0
  api.RegisterKernelBuilder(op, builder, status.get());
  return status.ok();
}

bool add_all(const char* forward_op, const char* gradient_op, const char* label) {
  bool added = true;
  for (bool gradient : {false, true}) {
    const char* op = gradient ? gradient_op : forward_op;
    added = added && add<float>(op, label, gradient);
    added = added && add<kbn::BFloat16>(op, label, gradient);
    added = added && add<kbn::Half>(op, label, gradient);
  }
  return added;
}

}  // namespace

// Registers the kernels ahead of TensorFlow's, to run on `threads` threads. `library` is the path
// of the loaded TensorFlow library. Returns whether it succeeded. Only the first call acts.
extern "C" __attribute__((visibility("default"))) int kbn_register(const char* library,
                                                                    int threads) {
  static const bool registered = [&] {
    if (!api.find(library)) return false;
    kbn::Pool::shared().set_threads(threads);
    // If oneDNN is on, TensorFlow renames the ops before it looks for kernels.
    return add_all("FusedBatchNormV3", "FusedBatchNormGradV3", nullptr) &&
           add_all("_MklNativeFusedBatchNormV3", "_MklNativeFusedBatchNormGradV3",
                   "MklNameChangeOp");
  }();
  return registered;
}
