// The number formats of an activation, and their conversions, which compilers can vectorize.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

namespace kbn {

struct BFloat16 {
  uint16_t bits;
};
struct Half {
  uint16_t bits;
};

inline float as_float(uint32_t bits) {
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}
inline uint32_t as_bits(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  return bits;
}

inline float to_float(float value) { return value; }
inline float to_float(BFloat16 value) { return as_float(static_cast<uint32_t>(value.bits) << 16); }

// IEEE half precision, by the method of Dukhan's FP16 (MIT license). Subnormals are converted
// with a magic number.
inline float to_float(Half value) {
  const uint32_t word = static_cast<uint32_t>(value.bits) << 16;
  const uint32_t twice = word + word;
  const float normal = as_float((twice >> 4) + (0xE0u << 23)) * 0x1.0p-112f;
  const float subnormal = as_float((twice >> 17) | (126u << 23)) - 0.5f;
  const uint32_t magnitude = twice < (1u << 27) ? as_bits(subnormal) : as_bits(normal);
  return as_float((word & 0x80000000u) | magnitude);
}

inline void store(float value, float* to) { *to = value; }

// Round to nearest, ties to even; NaN stays NaN.
inline void store(float value, BFloat16* to) {
  const uint32_t bits = as_bits(value);
  const uint32_t rounded = (bits + 0x7FFFu + ((bits >> 16) & 1u)) >> 16;
  to->bits = static_cast<uint16_t>((bits & 0x7FFFFFFFu) > 0x7F800000u ? 0x7FC0u : rounded);
}

inline void store(float value, Half* to) {
  const uint32_t bits = as_bits(value);
  const uint32_t twice = bits + bits;
  uint32_t bias = twice & 0xFF000000u;
  bias = bias < 0x71000000u ? 0x71000000u : bias;
  const float scaled = (std::fabs(value) * 0x1.0p+112f) * 0x1.0p-110f;
  const uint32_t base = as_bits(as_float((bias >> 1) + 0x07800000u) + scaled);
  const uint32_t magnitude = ((base >> 13) & 0x7C00u) + (base & 0x0FFFu);
  to->bits = static_cast<uint16_t>((bits >> 16 & 0x8000u) |
                                   (twice > 0xFF000000u ? 0x7E00u : magnitude));
}

}  // namespace kbn
