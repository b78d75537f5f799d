// Registers 1 and 2 of the A fragment exchanged: rows below and columns beyond are mixed up. Only values tell.
__device__ void product(float* d, const unsigned* a, const unsigned* b, int first, int second) {
  int t = threadIdx.x, g = t / 4, c = t % 4;
  unsigned r[4];
  r[0] = a[g * 8 + c];
  r[first] = a[(g + 8) * 8 + c];
  r[second] = a[g * 8 + c + 4];
  r[3] = a[(g + 8) * 8 + c + 4];
  unsigned b0 = b[g * 8 + c], b1 = b[g * 8 + c + 4];
  float s[4] = {0, 0, 0, 0};
  asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
      "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
      : "+f"(s[0]), "+f"(s[1]), "+f"(s[2]), "+f"(s[3])
      : "r"(r[0]), "r"(r[1]), "r"(r[2]), "r"(r[3]), "r"(b0), "r"(b1));
  d[g * 8 + 2 * c] = s[0];
  d[g * 8 + 2 * c + 1] = s[1];
  d[(g + 8) * 8 + 2 * c] = s[2];
  d[(g + 8) * 8 + 2 * c + 1] = s[3];
}

extern "C" __global__ void bad(float* d, const unsigned* a, const unsigned* b) {
  product(d, a, b, 2, 1);  // BUG: value
}

extern "C" __global__ void good(float* d, const unsigned* a, const unsigned* b) { product(d, a, b, 1, 2); }
