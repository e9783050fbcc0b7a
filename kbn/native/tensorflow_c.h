// The part of TensorFlow's C API that a kernel needs (tensorflow/c/kernels.h, stable across
// releases). It is looked up at run time, so compiling needs neither TensorFlow nor its headers.
#pragma once

#include <dlfcn.h>

#include <cstddef>
#include <cstdint>

namespace tf {

struct Tensor;
struct Status;
struct KernelBuilder;
struct Construction;
struct Context;
enum DataType : int { kFloat = 1, kBFloat16 = 14, kHalf = 19 };

// The functions: result, name without "TF_", arguments. If one is not found, `find` fails.
#define KBN_TENSORFLOW_FUNCTIONS(FUNCTION)                                                       \
  FUNCTION(Status*, NewStatus, (void))                                                           \
  FUNCTION(void, DeleteStatus, (Status*))                                                        \
  FUNCTION(int, GetCode, (const Status*))                                                        \
  FUNCTION(void, SetStatus, (Status*, int, const char*))                                         \
  FUNCTION(int, NumDims, (const Tensor*))                                                        \
  FUNCTION(int64_t, Dim, (const Tensor*, int))                                                   \
  FUNCTION(void*, TensorData, (const Tensor*))                                                   \
  FUNCTION(int64_t, TensorElementCount, (const Tensor*))                                         \
  FUNCTION(void, DeleteTensor, (Tensor*))                                                        \
  FUNCTION(KernelBuilder*, NewKernelBuilder,                                                     \
           (const char*, const char*, void* (*)(Construction*), void (*)(void*, Context*),       \
            void (*)(void*)))                                                                    \
  FUNCTION(void, KernelBuilder_TypeConstraint, (KernelBuilder*, const char*, int, Status*))      \
  FUNCTION(void, KernelBuilder_Priority, (KernelBuilder*, int32_t))                              \
  FUNCTION(void, KernelBuilder_Label, (KernelBuilder*, const char*))                             \
  FUNCTION(void, RegisterKernelBuilder, (const char*, KernelBuilder*, Status*))                  \
  FUNCTION(void, OpKernelConstruction_GetAttrFloat,                                              \
           (Construction*, const char*, float*, Status*))                                        \
  FUNCTION(void, OpKernelConstruction_GetAttrBool,                                               \
           (Construction*, const char*, unsigned char*, Status*))                                \
  FUNCTION(void, OpKernelConstruction_GetAttrString,                                             \
           (Construction*, const char*, char*, size_t, Status*))                                 \
  FUNCTION(void, OpKernelConstruction_Failure, (Construction*, Status*))                         \
  FUNCTION(void, GetInput, (Context*, int, Tensor**, Status*))                                   \
  FUNCTION(Tensor*, AllocateOutput,                                                              \
           (Context*, int, int, const int64_t*, int, size_t, Status*))                           \
  FUNCTION(Tensor*, ForwardInputOrAllocateOutput,                                                \
           (Context*, const int*, int, int, const int64_t*, int, int*, Status*))                 \
  FUNCTION(void, OpKernelContext_Failure, (Context*, Status*))

struct Functions {
#define KBN_FIELD(RESULT, NAME, ARGUMENTS) RESULT(*NAME) ARGUMENTS = nullptr;
  KBN_TENSORFLOW_FUNCTIONS(KBN_FIELD)
#undef KBN_FIELD

  // Finds the functions in the library at `path`, which the process has already loaded.
  bool find(const char* path) {
    void* library = dlopen(path, RTLD_LAZY | RTLD_NOLOAD);
    if (library == nullptr) return false;
    bool found = true;
#define KBN_FIND(RESULT, NAME, ARGUMENTS)                                     \
  NAME = reinterpret_cast<RESULT(*) ARGUMENTS>(dlsym(library, "TF_" #NAME)); \
  found = found && NAME != nullptr;
    KBN_TENSORFLOW_FUNCTIONS(KBN_FIND)
#undef KBN_FIND
    return found;
  }
};

inline Functions api;

}  // namespace tf
