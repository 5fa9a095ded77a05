// The part of the Metal language that our kernels use, on a CPU. Every GPU thread is a fiber. An operation of a simdgroup
// and a barrier are meeting points: whoever does not come, or waits somewhere else, is reported with its line. Threadgroup
// memory is filled with NaN before each threadgroup and may not exceed 32 KB.
//
// MLX asks for safe maths, but not for precise functions: of a NaN and a number max and min may give either. Both are tried.
//
// Not modelled: Apple's compiler and its limits of registers, fast maths, memory ordering between simdgroups other than
// by barriers, speed.
#pragma once
// No header of the C++ library, which takes longer to read than a kernel to compile.
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>

#define INFINITY __builtin_inff()
extern "C" int snprintf(char* to, size_t size, const char* format, ...);

#if defined(__SANITIZE_ADDRESS__)
extern "C" void __sanitizer_start_switch_fiber(void** fake_stack_save, const void* bottom, size_t size);
extern "C" void __sanitizer_finish_switch_fiber(void* fake_stack_save, const void** old_bottom, size_t* old_size);
#endif

typedef unsigned char uchar;
typedef unsigned short ushort;
typedef unsigned int uint;
typedef unsigned long ulong;
typedef _Float16 half;
typedef half float16_t;

struct bfloat {
  uint16_t bits;
  bfloat() = default;
  explicit bfloat(float x) {
    uint32_t u;
    memcpy(&u, &x, 4);
    bits = x != x ? 0x7FC0 : uint16_t((u + 0x7FFF + ((u >> 16) & 1)) >> 16);
  }
  operator float() const {
    uint32_t u = uint32_t(bits) << 16;
    float x;
    memcpy(&x, &u, 4);
    return x;
  }
};
typedef bfloat bfloat16_t;

#define device
#define constant
#define thread

struct uint3 {
  uint x, y, z;
};
struct ulong2 {
  ulong x, y;
  ulong2(ulong a, ulong b) : x(a), y(b) {}
};

namespace shim {

constexpr int LANES = 32, MAX_THREADS = 1024, MAX_THREADGROUP_MEMORY = 32768;
constexpr size_t STACK = 256 << 10, STAGGER = 5 * 64;

enum State { RUNNING, MEETING, AT_BARRIER, DONE };
typedef void (*Resolve)(void** slots, int count);

struct Thread {
  void* stack_pointer;
  char* stack;
  Thread* next;  // of its simdgroup
  State state;
  int line;
  Resolve resolve;
  void* slot;
  uint index;
  uint3 in_group, in_grid;
  void* fake_stack;
};

static Thread threads[MAX_THREADS];
static Thread* current;
static int num_threads;
static uint3 group, num_groups, group_size, grid_size;
static void* scheduler_stack_pointer;
static void (*body)();
static int matrix_layout;
static bool nan_wins;
static char message[400];

struct Memory {
  void* start;
  size_t size;
  Memory* next;
  static Memory*& all() {
    static Memory* list = nullptr;
    return list;
  }
  Memory(void* p, size_t n) : start(p), size(n), next(all()) {
    all() = this;
    memset(p, 0xFF, n);
  }
};

// Saves the registers that a function must keep, and goes on with another stack.
extern "C" __attribute__((visibility("hidden"))) void shim_switch(void** save, void* load);
#if defined(__x86_64__)
asm(R"(
.text
.globl shim_switch
.hidden shim_switch
shim_switch:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
)");
#else
#error "the fibers of this shim are written for x86-64"
#endif

#if defined(__SANITIZE_ADDRESS__)
static const void* scheduler_bottom;
static size_t scheduler_size;
static bool from_scheduler;

static void arrived(void* fake_stack) {
  const void* bottom;
  size_t size;
  __sanitizer_finish_switch_fiber(fake_stack, &bottom, &size);
  if (from_scheduler) {
    scheduler_bottom = bottom;
    scheduler_size = size;
    from_scheduler = false;
  }
}
#endif

// Who cannot go on hands over to the next lane of its simdgroup, and the last one to the scheduler.
static inline void hand_over() {
  Thread *me = current, *next = me->next && me->next->state == RUNNING ? me->next : nullptr;
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_start_switch_fiber(me->state == DONE ? nullptr : &me->fake_stack, next ? next->stack : scheduler_bottom,
                                 next ? STACK : scheduler_size);
#endif
  current = next;
  shim_switch(&me->stack_pointer, next ? next->stack_pointer : scheduler_stack_pointer);
#if defined(__SANITIZE_ADDRESS__)
  arrived(me->fake_stack);
#endif
}

static void start_thread() {
#if defined(__SANITIZE_ADDRESS__)
  arrived(nullptr);
#endif
  body();
  current->state = DONE;
  hand_over();
  __builtin_trap();
}

static inline void to_thread(Thread* next) {
  current = next;
#if defined(__SANITIZE_ADDRESS__)
  void* fake_stack;
  from_scheduler = true;
  __sanitizer_start_switch_fiber(&fake_stack, next->stack, STACK);
#endif
  shim_switch(&scheduler_stack_pointer, next->stack_pointer);
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_finish_switch_fiber(fake_stack, nullptr, nullptr);
#endif
}

// Wait for the simdgroup; `resolve` sees what all its lanes brought.
static inline void meet(void* slot, Resolve resolve, int line) {
  Thread* me = current;
  me->slot = slot;
  me->resolve = resolve;
  me->line = line;
  me->state = MEETING;
  hand_over();
}

static inline void nothing(void**, int) {}

static bool fail(const char* what, const Thread& where) {
  snprintf(message, sizeof message, "%s: line %d, threadgroup (%u, %u, %u), thread %u", what, where.line, group.x,
           group.y, group.z, where.index);
  return false;
}

static void prepare(Thread& t, int index, bool backwards) {
  const int after = backwards ? index - 1 : index + 1;
  t.index = index;
  t.next = after >= 0 && after < num_threads && after / LANES == index / LANES ? &threads[after] : nullptr;
  t.in_group = {index % group_size.x, index / group_size.x % group_size.y, index / (group_size.x * group_size.y)};
  t.in_grid = {group.x * group_size.x + t.in_group.x, group.y * group_size.y + t.in_group.y,
               group.z * group_size.z + t.in_group.z};
  t.state = RUNNING;
  t.line = 0;
  if (!t.stack) {
    t.stack = (char*)mmap(nullptr, STACK, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  }
  // A function finds its stack 8 past a multiple of 16. Were all at the same place, they would share few lines of a cache.
  void** top = (void**)(t.stack + STACK - 72 - index % LANES * STAGGER);
  top[0] = nullptr;  // what start_thread would return to
  top[-1] = (void*)start_thread;
  t.stack_pointer = top - 7;
}

// Runs one simdgroup until all its lanes wait at a barrier or are done.
static bool run_simdgroup(int first, bool backwards) {
  const int count = num_threads - first < LANES ? num_threads - first : LANES;
  for (;;) {
    for (int i = 0; i < count; i++) {
      Thread& t = threads[first + (backwards ? count - 1 - i : i)];
      if (t.state == RUNNING) {
        to_thread(&t);
      }
    }
    Thread* waiting = nullptr;
    int num_waiting = 0;
    void* slots[LANES];
    for (int i = 0; i < count; i++) {
      Thread& t = threads[first + i];
      if (t.state == MEETING) {
        waiting = waiting ? waiting : &t;
        if (t.line != waiting->line || t.resolve != waiting->resolve) {
          return fail("lanes of a simdgroup wait at different operations", t);
        }
        slots[num_waiting++] = t.slot;
      }
    }
    if (!waiting) {
      return true;
    }
    if (num_waiting != count) {
      return fail("only some lanes reach an operation of their simdgroup", *waiting);
    }
    waiting->resolve(slots, count);
    for (int i = 0; i < count; i++) {
      threads[first + i].state = RUNNING;
    }
  }
}

static bool run_group(bool backwards) {
  size_t bytes = 0;
  for (Memory* m = Memory::all(); m; m = m->next) {
    memset(m->start, 0xFF, m->size);
    bytes += m->size;
  }
  for (int i = 0; i < num_threads; i++) {
    prepare(threads[i], i, backwards);
  }
  const int num_simdgroups = (num_threads + LANES - 1) / LANES;
  for (;;) {
    for (int g = 0; g < num_simdgroups; g++) {
      if (!run_simdgroup((backwards ? num_simdgroups - 1 - g : g) * LANES, backwards)) {
        return false;
      }
    }
    int num_done = 0;
    for (int i = 0; i < num_threads; i++) {
      num_done += threads[i].state == DONE;
    }
    if (num_done == num_threads) {
      break;
    }
    for (int i = 0; i < num_threads; i++) {
      if (num_done && threads[i].state == AT_BARRIER) {
        return fail("a barrier is not reached by all threads", threads[i]);
      }
      if (threads[i].line != threads[0].line) {
        return fail("threads wait at different barriers", threads[i]);
      }
      threads[i].state = RUNNING;
    }
  }
  bytes = 0;
  for (Memory* m = Memory::all(); m; m = m->next) {
    bytes += m->size;
  }
  if (bytes > MAX_THREADGROUP_MEMORY) {
    snprintf(message, sizeof message, "%zu bytes of threadgroup memory, at most %d", bytes, MAX_THREADGROUP_MEMORY);
    return false;
  }
  return true;
}

// The whole grid, one threadgroup after the other; null, or what went wrong.
static const char* run_grid(void (*kernel_body)(), const uint* grid, const uint* threads_per_group, int order) {
  body = kernel_body;
  grid_size = {grid[0], grid[1], grid[2]};
  group_size = {threads_per_group[0], threads_per_group[1], threads_per_group[2]};
  num_threads = int(group_size.x * group_size.y * group_size.z);
  if (num_threads > MAX_THREADS || grid[0] % group_size.x || grid[1] % group_size.y || grid[2] % group_size.z) {
    return "more than 1024 threads in a threadgroup, or a grid that they do not divide";
  }
  num_groups = {grid[0] / group_size.x, grid[1] / group_size.y, grid[2] / group_size.z};
  const bool backwards = order & 1;
  matrix_layout = order >> 1 & 1;
  nan_wins = matrix_layout;
  for (group.z = 0; group.z < num_groups.z; group.z++) {
    for (group.y = 0; group.y < num_groups.y; group.y++) {
      for (group.x = 0; group.x < num_groups.x; group.x++) {
        if (!run_group(backwards)) {
          return message;
        }
      }
    }
  }
  return nullptr;
}

}  // namespace shim

#define THREADGROUP_ARRAY(type, name, size) \
  static type name[size];                   \
  static shim::Memory shim_memory_of_##name((void*)name, sizeof name)

enum class mem_flags { mem_none = 0, mem_device = 1, mem_threadgroup = 2 };

#define LINE int line = __builtin_LINE()

namespace metal {

inline void threadgroup_barrier(mem_flags, LINE) {
  shim::current->line = line;
  shim::current->state = shim::AT_BARRIER;
  shim::hand_over();
}
inline void simdgroup_barrier(mem_flags, LINE) { shim::meet(nullptr, shim::nothing, line); }

template <class T>
T simd_sum(T x, LINE) {
  shim::meet(&x, [](void** slots, int count) {
    T part[shim::LANES] = {};
    for (int i = 0; i < count; i++) part[i] = *(T*)slots[i];
    for (int step = 1; step < shim::LANES; step *= 2)
      for (int i = 0; i < shim::LANES; i += 2 * step) part[i] += part[i + step];
    for (int i = 0; i < count; i++) *(T*)slots[i] = part[0];
  }, line);
  return x;
}
template <class T>
T max(T a, T b) {
  if (a != a || b != b) return (a != a) == shim::nan_wins ? a : b;
  return a >= b ? a : b;
}
template <class T>
T min(T a, T b) {
  if (a != a || b != b) return (a != a) == shim::nan_wins ? a : b;
  return a <= b ? a : b;
}
template <class T>
T simd_max(T x, LINE) {
  shim::meet(&x, [](void** slots, int count) {
    T most = *(T*)slots[0];
    for (int i = 1; i < count; i++) most = max(most, *(T*)slots[i]);
    for (int i = 0; i < count; i++) *(T*)slots[i] = most;
  }, line);
  return x;
}
template <class T>
T simd_min(T x, LINE) {
  shim::meet(&x, [](void** slots, int count) {
    T least = *(T*)slots[0];
    for (int i = 1; i < count; i++) least = min(least, *(T*)slots[i]);
    for (int i = 0; i < count; i++) *(T*)slots[i] = least;
  }, line);
  return x;
}
template <class T>
struct FromLane {
  T x;
  int lane;
};
template <class T>
T simd_shuffle(T x, ushort lane, LINE) {
  FromLane<T> mine = {x, lane};
  shim::meet(&mine, [](void** slots, int count) {
    T given[shim::LANES];
    for (int i = 0; i < count; i++) given[i] = ((FromLane<T>*)slots[i])->x;
    for (int i = 0; i < count; i++) {
      FromLane<T>* to = (FromLane<T>*)slots[i];
      if (to->lane < count) to->x = given[to->lane];
    }
  }, line);
  return mine.x;
}
template <class T>
T simd_broadcast(T x, ushort lane, LINE) {
  return simd_shuffle(x, lane, line);
}
template <class T>
T simd_shuffle_xor(T x, ushort mask, LINE) {
  return simd_shuffle(x, ushort((shim::current->index % shim::LANES) ^ mask), line);
}

inline float fma(float a, float b, float c) { return __builtin_fmaf(a, b, c); }
namespace precise {
inline float exp(float x) { return __builtin_expf(x); }
inline float log(float x) { return __builtin_logf(x); }
inline float tanh(float x) { return __builtin_tanhf(x); }
}  // namespace precise

template <class T, int N>
struct alignas(N * sizeof(T)) vec {
  T x[N];
  vec() = default;
  explicit vec(T all) {
    for (T& one : x) one = all;
  }
};

template <class T>
struct Pair {
  T x[2];
  T& operator[](int i) { return x[i]; }
};

// Two elements for each lane. Which ones is Apple's secret; two layouts are tried, and a kernel may rely on neither.
template <class T, int Columns, int Rows>
struct simdgroup_matrix {
  static_assert(Columns == 8 && Rows == 8, "8 x 8 only");
  Pair<T> elements;
  Pair<T>& thread_elements() { return elements; }
  static int row(int lane) { return shim::matrix_layout ? lane / 4 : (lane / 4 & 4) + lane / 2 % 4; }
  static int column(int lane) { return shim::matrix_layout ? lane % 4 * 2 : (lane / 4 & 2) * 2 + lane % 2 * 2; }
};

template <class T, int Columns, int Rows = Columns>
simdgroup_matrix<T, Columns, Rows> make_filled_simdgroup_matrix(T x) {
  simdgroup_matrix<T, Columns, Rows> m;
  m.elements = {{x, x}};
  return m;
}

template <class T>
void simdgroup_load(simdgroup_matrix<T, 8, 8>& m, const T* from, ulong stride = 8, ulong2 origin = ulong2(0, 0),
                    bool transposed = false, LINE) {
  shim::meet(nullptr, shim::nothing, line);
  const int lane = shim::current->index % shim::LANES, r = m.row(lane), c = m.column(lane);
  for (int i = 0; i < 2; i++) {
    const ulong y = origin.y + (transposed ? c + i : r), x = origin.x + (transposed ? r : c + i);
    m.elements[i] = from[y * stride + x];
  }
}

template <class T>
void simdgroup_store(simdgroup_matrix<T, 8, 8> m, T* to, ulong stride = 8, ulong2 origin = ulong2(0, 0),
                     bool transposed = false, LINE) {
  shim::meet(nullptr, shim::nothing, line);
  const int lane = shim::current->index % shim::LANES, r = m.row(lane), c = m.column(lane);
  for (int i = 0; i < 2; i++) {
    const ulong y = origin.y + (transposed ? c + i : r), x = origin.x + (transposed ? r : c + i);
    to[y * stride + x] = m.elements[i];
  }
}

template <class D, class A, class B, class C>
struct Product {
  simdgroup_matrix<D, 8, 8>* d;
  simdgroup_matrix<A, 8, 8> a;
  simdgroup_matrix<B, 8, 8> b;
  simdgroup_matrix<C, 8, 8> c;
};
template <class D, class A, class B, class C>
void simdgroup_multiply_accumulate(simdgroup_matrix<D, 8, 8>& d, simdgroup_matrix<A, 8, 8> a,
                                   simdgroup_matrix<B, 8, 8> b, simdgroup_matrix<C, 8, 8> c, LINE) {
  typedef Product<D, A, B, C> P;
  P mine = {&d, a, b, c};
  shim::meet(&mine, [](void** slots, int count) {
    float a[8][8], b[8][8], d[8][8];
    for (int i = 0; i < count; i++) {
      P& p = *(P*)slots[i];
      const int r = p.a.row(i), c = p.a.column(i);
      for (int j = 0; j < 2; j++) {
        a[r][c + j] = float(p.a.elements[j]);
        b[r][c + j] = float(p.b.elements[j]);
        d[r][c + j] = float(p.c.elements[j]);
      }
    }
    for (int r = 0; r < 8; r++)
      for (int k = 0; k < 8; k++)
        for (int c = 0; c < 8; c++) d[r][c] += a[r][k] * b[k][c];
    for (int i = 0; i < count; i++) {
      P& p = *(P*)slots[i];
      const int r = p.a.row(i), c = p.a.column(i);
      p.d->elements = {{D(d[r][c]), D(d[r][c + 1])}};
    }
  }, line);
}

}  // namespace metal
