// What translated code and the runtime agree on: the records and the table of functions. The text between the
// parentheses is compiled here and handed to the compiler of translated code word for word, so that they cannot differ.
// It keeps to what C and C++ have in common: C compiles faster.
#pragma once

#define SHARED_WITH_TRANSLATED_CODE(text_name, ...) \
  __VA_ARGS__                                       \
  inline constexpr char text_name[] = #__VA_ARGS__;

namespace emulator {

SHARED_WITH_TRANSLATED_CODE(
    abi_text,

    typedef unsigned char u8; typedef signed char s8; typedef unsigned short u16; typedef short s16;
    typedef unsigned int u32; typedef int s32; typedef unsigned long long u64; typedef long long s64;
    typedef float f32; typedef double f64; typedef u8 pred;

    enum { SPACE_GLOBAL, SPACE_SHARED, SPACE_LOCAL, SPACE_CONST, SPACE_GENERIC };
    enum { ACCESS_READ, ACCESS_WRITE, ACCESS_ATOMIC };
    enum { SHUFFLE_UP, SHUFFLE_DOWN, SHUFFLE_XOR, SHUFFLE_INDEX };
    enum { VOTE_BALLOT, VOTE_ANY, VOTE_ALL, VOTE_UNIFORM };
    enum { REDUCE_ADD, REDUCE_AND, REDUCE_OR, REDUCE_XOR, REDUCE_MIN_U, REDUCE_MAX_U, REDUCE_MIN_S, REDUCE_MAX_S };
    enum { BARRIER_POPC, BARRIER_AND, BARRIER_OR };
    enum { MMA_BF16_K8, MMA_BF16_K16, MMA_F16_K8, MMA_F16_K16, MMA_TF32_K4, MMA_TF32_K8 };
    enum { MATRIX_LOAD = 16, MATRIX_LOAD_TRANSPOSED };
    enum { ROUND_NEAREST, ROUND_ZERO, ROUND_DOWN, ROUND_UP };

    struct Extent { u32 x; u32 y; u32 z; };
    struct Geometry {
      struct Extent grid; struct Extent block; struct Extent index; u32 dynamic_offset; u32 dynamic_size;
    };

    /* Local memory of one active function of a thread. */
    struct Frame { struct Frame* caller; u64 low; u64 high; u8* written; };

    /* Matrix instructions that a warp carries out at one meeting. Operands are numbers of words in each lane's array. A
       load has its address at a[0] and its number of matrices in b[0]. */
    struct MatrixStep { int site; u16 kind; u16 a[4]; u16 b[2]; u16 c[4]; u16 d[4]; };
    struct MatrixGroup { const struct MatrixStep* steps; u32 count; };

    /* wgmma.mma_async of bf16: 64 rows, `columns`, depth 16. A lane's words: results, then four of A if it is in registers. */
    struct WarpgroupStep { int site; u16 columns; u16 a_in_registers; u16 a_transposed; u16 b_transposed; };
    enum { HAZARD_READ, HAZARD_FENCE };

    struct Runtime;
    struct Thread {
      void* stack_pointer; const struct Runtime* runtime; const struct Geometry* geometry; char* shared; u64* counts;
      struct Frame* frame; struct Extent index; u32 lane; u32 flat; u32 check; f32 upward; f32 downward;
      struct Warp* warp; struct Block* block; struct Thread* next;
    };

    struct Runtime {
      char* (*access)(struct Thread*, int space, u64 address, u32 bytes, int kind, int site);
      void (*enter_frame)(struct Thread*, struct Frame*);
      void (*barrier)(struct Thread*, u32 id, u32 threads, int site);
      void (*barrier_arrive)(struct Thread*, u32 id, u32 threads, int site);
      u32 (*barrier_reduce)(struct Thread*, u32 id, u32 threads, int operation, u32 value, int site);
      void (*syncwarp)(struct Thread*, u32 mask, int site);
      u32 (*shuffle)(struct Thread*, int mode, u32 value, u32 lane, u32 clamp, u32 mask, pred* in_range, int site);
      u32 (*vote)(struct Thread*, int mode, u32 value, u32 mask, int site);
      u32 (*match)(struct Thread*, int all, u64 value, u32 mask, pred* same, int site);
      u32 (*redux)(struct Thread*, int operation, u32 value, u32 mask, int site);
      u32 (*activemask)(struct Thread*);
      void (*matrices)(struct Thread*, const struct MatrixGroup*, u32* words, int site);
      void (*async_copy)(struct Thread*, u32 to, u64 from, u32 bytes, u32 source_bytes, int site);
      void (*async_commit)(struct Thread*);
      void (*async_wait)(struct Thread*, u32 groups_left);
      void (*bulk_copy)(struct Thread*, u32 to, u64 map, s32 column, s32 row, u32 barrier, int site);
      void (*proxy_fence)(struct Thread*);
      void (*mbarrier_init)(struct Thread*, u32 address, u32 count, int site);
      void (*mbarrier_arrive)(struct Thread*, u32 address, u32 count, u32 bytes, int site);
      u32 (*mbarrier_wait)(struct Thread*, u32 address, u32 parity, u32 suspends, int site);
      void (*warpgroup_product)(struct Thread*, const struct WarpgroupStep*, u64 a, u64 b, u32 add, u32* words);
      void (*warpgroup_sync)(struct Thread*, int site);
      void (*warpgroup_commit)(struct Thread*, int site);
      void (*warpgroup_wait)(struct Thread*, u32 groups_left, int site);
      void (*warpgroup_hazard)(struct Thread*, int kind, int site);
      void (*set_registers)(struct Thread*, u32 count, int site);
      void (*yield)(struct Thread*);
      u64 (*clock)(void);
      void (*trap)(struct Thread*, int site);
      u32 (*print)(struct Thread*, const char* format, const char* arguments);
      void (*assert_fail)(struct Thread*, const char* message, const char* file, u32 line, const char* function);
    };

    /* One instruction that a report may name. `log` numbers those whose accesses are analysed, -1 otherwise. */
    struct Site { const char* opcode; const char* file; const char* outer_file; u32 line; u32 outer_line; s32 log; };
    struct SharedEntry { const char* name; u32 offset; u32 size; };
    struct ParameterEntry { u32 offset; u32 size; };
    struct GlobalEntry { const char* name; void* address; u64 size; };
    struct KernelEntry {
      const char* name; void (*run)(struct Thread*, const char* parameters);
      const struct ParameterEntry* parameters; u32 parameter_count; u32 parameter_bytes;
      const struct SharedEntry* shared; u32 shared_count; u32 static_shared; u32 dynamic_offset;
      u32 max_threads; u32 has_fence; u32 has_global_atomic;
    };
    /* Instructions of one basic block by kind; the kinds are the columns of translate's table. */
    struct BlockCount { u16 by_kind[16]; };
    struct ModuleTable {
      const struct KernelEntry* kernels; u32 kernel_count; const struct GlobalEntry* globals; u32 global_count;
      const struct Site* sites; u32 site_count; u32 log_count; const struct BlockCount* blocks; u32 block_count;
    };)

// Kinds of instructions that are counted: the columns of BlockCount.
enum Counted {
  COUNT_INTEGER, COUNT_FLOATING, COUNT_FUSED, COUNT_SPECIAL, COUNT_MEMORY, COUNT_BARRIER, COUNT_WARP, COUNT_MMA,
  COUNT_LDMATRIX, COUNT_ASYNC, COUNT_CONTROL, COUNT_FLOPS, COUNT_MMA_FLOPS /* in units of 32 a thread */, COUNTED
};

// Bytes around shared variables that belong to none: PTX has lost the bounds of what an address points into.
constexpr u32 SHARED_RED_ZONE = 128;

// Generic addresses of shared memory: no host address has these bits.
constexpr u64 SHARED_WINDOW = 0x5a00000000000000ull;

}  // namespace emulator
