// 16 bytes at a time from a row that begins on an odd element.
extern "C" __global__ void bad(uint4* out, const unsigned short* x, int skip) {
  int t = threadIdx.x;
  out[t] = *(const uint4*)(x + skip + t * 8);  // BUG: misaligned
}

extern "C" __global__ void good(uint4* out, const unsigned short* x, int skip) {
  int t = threadIdx.x;
  const unsigned short* row = x + skip + t * 8;
  uint4 v;
  v.x = row[0] | row[1] << 16;
  v.y = row[2] | row[3] << 16;
  v.z = row[4] | row[5] << 16;
  v.w = row[6] | row[7] << 16;
  out[t] = v;
}
