// The loops over an activation. This file is included once per instruction set, each time in a
// namespace of its own. numbers.h must be included before, outside these namespaces.
//
// There are two layouts. In the first one, values are in rows of `width` lanes, one row every
// `stride` values. Lane j of every row belongs to the same channel, and the last row may be
// shorter. In the second one, a plane, all values belong to one channel.
//
// The sums are those of
//   x − pivot and (x − pivot)²,   or, with kGradient,   dy and dy·(x − pivot).
// A block is summed in single precision and the blocks in double precision, so that the error does
// not grow with the batch.

// Adds the sums of lane j to first[j] and second[j].
template <typename T, bool kGradient>
void sum_rows(const T* x, const T* dy, const float* pivot, int64_t size, int64_t stride,
              int64_t width, double* first, double* second) {
  constexpr int64_t kTile = 512, kBlock = 64;
  const int64_t rows = (size + stride - 1) / stride;
  float a[kTile], b[kTile];
  for (int64_t lane = 0; lane < width; lane += kTile) {
    for (int64_t row = 0; row < rows; row += kBlock) {
      const int64_t end = row + kBlock < rows ? row + kBlock : rows;
      const int64_t lanes = kTile < width - lane ? kTile : width - lane;
      for (int64_t j = 0; j < lanes; ++j) a[j] = b[j] = 0.0f;
      for (int64_t r = row; r < end;) {
        const int64_t at = r * stride + lane;
        const int64_t left = size - at < lanes ? size - at : lanes;
        // Add four complete rows at a time, for fewer loads and stores of the sums.
        if (r + 4 <= end && at + 3 * stride + lanes <= size) {
#pragma GCC ivdep
          for (int64_t j = 0; j < lanes; ++j) {
            float sum = 0.0f, product = 0.0f;
            for (int64_t k = 0; k < 4; ++k) {
              const float deviation = to_float(x[at + k * stride + j]) - pivot[lane + j];
              const float value = kGradient ? to_float(dy[at + k * stride + j]) : deviation;
              sum += value;
              product += value * deviation;
            }
            a[j] += sum;
            b[j] += product;
          }
          r += 4;
        } else {
#pragma GCC ivdep
          for (int64_t j = 0; j < left; ++j) {
            const float deviation = to_float(x[at + j]) - pivot[lane + j];
            const float value = kGradient ? to_float(dy[at + j]) : deviation;
            a[j] += value;
            b[j] += value * deviation;
          }
          r += 1;
        }
      }
      for (int64_t j = 0; j < lanes; ++j) {
        first[lane + j] += a[j];
        second[lane + j] += b[j];
      }
    }
  }
}

// Returns the sum of 32 values, in an order that vectorizes.
inline double folded(float* values) {
  for (int64_t j = 0; j < 16; ++j) values[j] += values[j + 16];
  for (int64_t j = 0; j < 8; ++j) values[j] += values[j + 8];
  for (int64_t j = 0; j < 4; ++j) values[j] += values[j + 4];
  return (double{values[0]} + values[1]) + (double{values[2]} + values[3]);
}

// Adds the sums of a plane to *first and *second.
template <typename T, bool kGradient>
void sum_plane(const T* x, const T* dy, float pivot, int64_t size, double* first, double* second) {
  constexpr int64_t kLanes = 32, kBlock = 64 * kLanes;
  for (int64_t at = 0; at < size; at += kBlock) {
    const int64_t end = at + kBlock < size ? at + kBlock : size;
    float a[kLanes] = {}, b[kLanes] = {};
    const auto add = [&](const auto* xs, const auto* dys) {
#pragma GCC ivdep
      for (int64_t j = 0; j < kLanes; ++j) {
        const float deviation = to_float(xs[j]) - pivot;
        const float value = kGradient ? to_float(dys[j]) : deviation;
        a[j] += value;
        b[j] += value * deviation;
      }
    };
    int64_t i = at;
    for (; i + kLanes <= end; i += kLanes) add(x + i, dy + i);
    if (i < end) {  // the rest, padded with values that add 0
      float xs[kLanes], dys[kLanes];
      for (int64_t j = 0; j < kLanes; ++j) {
        xs[j] = i + j < end ? to_float(x[i + j]) : pivot;
        dys[j] = kGradient && i + j < end ? to_float(dy[i + j]) : 0.0f;
      }
      add(xs, dys);
    }
    *first += folded(a);
    *second += folded(b);
  }
}

// y = (x − pivot)·scale + bias, or, with kGradient, y = dy·factor − (x − pivot)·scale + bias.
template <typename T, bool kGradient>
void map_rows(const T* x, const T* dy, const float* pivot, const float* factor, const float* scale,
              const float* bias, int64_t size, int64_t stride, int64_t width, T* y) {
  for (int64_t at = 0; at < size; at += stride) {
    const int64_t lanes = width < size - at ? width : size - at;
#pragma GCC ivdep
    for (int64_t j = 0; j < lanes; ++j) {
      const float scaled = (to_float(x[at + j]) - pivot[j]) * scale[j];
      store(kGradient ? to_float(dy[at + j]) * factor[j] - scaled + bias[j] : scaled + bias[j],
            &y[at + j]);
    }
  }
}

template <typename T, bool kGradient>
void map_plane(const T* x, const T* dy, float pivot, float factor, float scale, float bias,
               int64_t size, T* y) {
#pragma GCC ivdep
  for (int64_t i = 0; i < size; ++i) {
    const float scaled = (to_float(x[i]) - pivot) * scale;
    store(kGradient ? to_float(dy[i]) * factor - scaled + bias : scaled + bias, &y[i]);
  }
}
