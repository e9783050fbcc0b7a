// The loops of loops.h, compiled for several instruction sets, and the choice for this CPU.
#pragma once

#include <cstdint>

#include "numbers.h"

#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
#define KBN_X86 1
#else
#define KBN_X86 0
#endif

namespace kbn {

namespace baseline {
#include "loops.h"
}
#if KBN_X86
#pragma GCC push_options
#pragma GCC target("avx2,fma")
namespace avx2 {
#include "loops.h"
}
#pragma GCC pop_options
#pragma GCC push_options
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,prefer-vector-width=512")
namespace avx512 {
#include "loops.h"
}
#pragma GCC pop_options
#endif

template <typename T, bool kGradient>
struct Loops {
  decltype(&baseline::sum_rows<T, kGradient>) sum_rows;
  decltype(&baseline::sum_plane<T, kGradient>) sum_plane;
  decltype(&baseline::map_rows<T, kGradient>) map_rows;
  decltype(&baseline::map_plane<T, kGradient>) map_plane;

#define KBN_LOOPS(LEVEL)                                                 \
  Loops {                                                                \
    LEVEL::sum_rows<T, kGradient>, LEVEL::sum_plane<T, kGradient>,       \
        LEVEL::map_rows<T, kGradient>, LEVEL::map_plane<T, kGradient>    \
  }

  static const Loops& best() {
    static const Loops loops = choose();
    return loops;
  }

 private:
  static Loops choose() {
#if KBN_X86
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
        __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl")) {
      return KBN_LOOPS(avx512);
    }
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return KBN_LOOPS(avx2);
#endif
    return KBN_LOOPS(baseline);
  }
#undef KBN_LOOPS
};

}  // namespace kbn
