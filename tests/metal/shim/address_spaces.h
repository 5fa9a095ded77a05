// Declarations for clang's type checker, with address spaces as types of their own: a pointer of one is no pointer of
// another, and a store through a pointer to const is an error. Nothing here runs.
#pragma once
typedef unsigned char uchar;
typedef unsigned short ushort;
typedef unsigned int uint;
typedef unsigned long ulong;
typedef signed char int8_t;
typedef int int32_t;
typedef _Float16 half;
typedef half float16_t;
typedef __bf16 bfloat;
typedef bfloat bfloat16_t;
inline float converted(bfloat x) { return float(bfloat(float(x))); }

#define device __attribute__((address_space(1)))
#define constant __attribute__((address_space(2)))
#define threadgroup __attribute__((address_space(3)))
#define thread
#define INFINITY __builtin_inff()

struct uint3 {
  uint x, y, z;
};
struct ulong2 {
  ulong2(ulong, ulong);
};

enum class mem_flags { mem_none = 0, mem_device = 1, mem_threadgroup = 2 };

namespace metal {
template <class T, int N>
using vec = T __attribute__((ext_vector_type(N)));
void threadgroup_barrier(mem_flags);
void simdgroup_barrier(mem_flags);
template <class T>
T simd_sum(T);
template <class T>
T simd_max(T);
template <class T>
T simd_min(T);
template <class T>
T simd_broadcast(T, ushort);
template <class T>
T max(T, T);
template <class T>
T min(T, T);
float fma(float, float, float);
namespace precise {
float exp(float);
float log(float);
float tanh(float);
}  // namespace precise

template <class T, int Columns, int Rows>
struct simdgroup_matrix {
  struct Elements {
    T& operator[](int);
  };
  Elements& thread_elements();
};
template <class T, int Columns, int Rows = Columns>
simdgroup_matrix<T, Columns, Rows> make_filled_simdgroup_matrix(T);
template <class T>
void simdgroup_load(simdgroup_matrix<T, 8, 8>&, const threadgroup T*, ulong = 8, ulong2 = ulong2(0, 0), bool = false);
template <class T>
void simdgroup_load(simdgroup_matrix<T, 8, 8>&, const device T*, ulong = 8, ulong2 = ulong2(0, 0), bool = false);
template <class T>
void simdgroup_store(simdgroup_matrix<T, 8, 8>, threadgroup T*, ulong = 8, ulong2 = ulong2(0, 0), bool = false);
template <class T>
void simdgroup_store(simdgroup_matrix<T, 8, 8>, device T*, ulong = 8, ulong2 = ulong2(0, 0), bool = false);
template <class D, class A, class B, class C>
void simdgroup_multiply_accumulate(simdgroup_matrix<D, 8, 8>&, simdgroup_matrix<A, 8, 8>, simdgroup_matrix<B, 8, 8>,
                                   simdgroup_matrix<C, 8, 8>);
}  // namespace metal
#pragma GCC poison double
