/**
 * Instructions of sm_90a against their definitions: wgmma with operands in registers and in shared memory, along either
 * dimension; tiles of the copy engine with their swizzle and zeros beyond the matrix; the phases of an mbarrier. What is reported
 * when they are misused: planted/kernels/hopper-*.cu.
 */
import { afterAll, expect, test } from "bun:test";
import { buildEmulator } from "./build.ts";
import { type Argument, openSession } from "./planted/session.ts";

const minutes = 60_000;
const { folder } = await buildEmulator();
const session = openSession(folder);
session.control.setComputeCapability(90);
afterAll(() => {
  session.control.setComputeCapability(80);
  session.control.reset();
});

const count = (n: number) => Array.from({ length: n }, (_, i) => i);
const bf16 = (x: number) => new Uint32Array(new Float32Array([x]).buffer)[0]! >>> 16;
const list = (prefix: string, n: number) =>
  count(n)
    .map((i) => `${prefix}${i}`)
    .join(", ");

/** A kernel with `shared` bytes at %r0, its parameters in %a0, %a1, … and the thread in %t. */
function kernel(parameters: number, shared: number, body: string, map = false): number {
  const declared = count(parameters).map((i) =>
    map && i === 0 ? ".param .align 64 .b8 p0[128]" : `.param .u64 p${i}`,
  );
  const loads = count(parameters).map((i) =>
    map && i === 0 ? "mov.b64 %a0, p0;\ncvta.param.u64 %a0, %a0;" : `ld.param.u64 %a${i}, [p${i}];`,
  );
  return session.kernelOf(
    `.version 8.0
.target sm_90a
.address_size 64
.visible .entry run(${declared.join(", ")})
{
.reg .pred %p<8>;
.reg .b32 %r<64>, %x<4>;
.reg .f32 %f<256>;
.reg .b64 %rd<16>, %a<8>;
.reg .b32 %t;
.shared .align 1024 .b8 memory[${shared}];
mov.u32 %t, %tid.x;
mov.u32 %r0, memory;
${loads.join("\n")}
${body}
ret;
}
`,
    "run",
  );
}

function run(code: number, args: readonly Argument[]): void {
  session.control.clearReports();
  session.launch(code, 1, 128, 0, args);
  session.synchronize();
  expect(session.control.reports().filter(({ kind }) => kind !== "bank-conflict" && kind !== "uncoalesced")).toEqual(
    [],
  );
}

/** Where the 128-byte swizzle puts a byte: chunks of 16 bytes are exchanged by the number of the row of 128 bytes. */
const swizzled = (row: number, byte: number) => row * 128 + (((byte >> 4) ^ (row % 8)) << 4) + (byte % 16);

const A_BYTES = 64 * 128;
const B_BYTES = 256 * 128;

/** Shared memory with a (64×16) and b (16×N), 16 elements into their rows if these run along the 16. */
function image(a: readonly number[], b: readonly number[], N: number, along: boolean): Uint16Array {
  const shared = new Uint16Array((A_BYTES + B_BYTES) / 2);
  for (let m = 0; m < 64; m++) for (let k = 0; k < 16; k++) shared[swizzled(m, 32 + 2 * k) / 2] = bf16(a[16 * m + k]!);
  for (let k = 0; k < 16; k++)
    for (let n = 0; n < N; n++) {
      const at = along ? swizzled(n, 32 + 2 * k) : Math.floor(n / 64) * 2048 + swizzled(k, (n % 64) * 2);
      shared[(A_BYTES + at) / 2] = bf16(b[N * k + n]!);
    }
  return shared;
}

for (const N of [8, 64, 128, 256])
  for (const registers of [false, true])
    for (const along of [false, true])
      test(
        `m64n${N}k16, a in ${registers ? "registers" : "shared memory"}, b's rows along ${along ? "the 16" : `the ${N}`}`,
        () => {
          const a = count(64 * 16).map((i) => ((i * 7) % 13) - 6);
          const b = count(16 * N).map((i) => ((i * 5) % 11) - 5);
          const start = count(64 * N).map((i) => (i % 7) - 3);
          const high = (leading: number) => `${(64n << 32n) | (1n << 62n) | (BigInt(leading / 16) << 16n)}`;
          const descriptor = (to: string, offset: number, leading: number) =>
            `add.u32 %r1, %r0, ${offset};\nshr.u32 %r1, %r1, 4;\ncvt.u64.u32 ${to}, %r1;\nor.b64 ${to}, ${to}, ${high(leading)};`;
          const D = list("%f", N / 2);
          const left = registers ? `{${list("%x", 4)}}` : "%rd1";
          const flags = `p, 1, 1, ${registers ? "" : "0, "}${along ? 0 : 1}`;
          const code = kernel(
            4,
            A_BYTES + B_BYTES,
            `mul.wide.u32 %rd3, %t, 4;
mul.lo.u32 %r4, %t, 4;
add.u32 %r4, %r4, %r0;
add.u64 %rd4, %a0, %rd3;
mov.u32 %r5, 0;
fill:
ld.global.u32 %r6, [%rd4];
st.shared.u32 [%r4], %r6;
add.u64 %rd4, %rd4, 512;
add.u32 %r4, %r4, 512;
add.u32 %r5, %r5, 512;
setp.lt.u32 %p1, %r5, ${A_BYTES + B_BYTES};
@%p1 bra fill;
fence.proxy.async.shared::cta;
bar.sync 0;
mul.wide.u32 %rd5, %t, 16;
add.u64 %rd5, %rd5, %a1;
ld.global.v4.u32 {${list("%x", 4)}}, [%rd5];
mul.wide.u32 %rd6, %t, ${2 * N};
add.u64 %rd7, %a2, %rd6;
${count(N / 2)
  .map((i) => `ld.global.f32 %f${i}, [%rd7+${4 * i}];`)
  .join("\n")}
${descriptor("%rd1", 32, 16)}
${descriptor("%rd2", A_BYTES + (along ? 32 : 0), along ? 16 : 2048)}
wgmma.fence.sync.aligned;
{ .reg .pred p; setp.ne.u32 p, 1, 0; wgmma.mma_async.sync.aligned.m64n${N}k16.f32.bf16.bf16 {${D}}, ${left}, %rd2, ${flags}; }
{ .reg .pred p; setp.ne.u32 p, 1, 0; wgmma.mma_async.sync.aligned.m64n${N}k16.f32.bf16.bf16 {${D}}, ${left}, %rd2, ${flags}; }
wgmma.commit_group.sync.aligned;
wgmma.wait_group.sync.aligned 0;
add.u64 %rd7, %a3, %rd6;
${count(N / 2)
  .map((i) => `st.global.f32 [%rd7+${4 * i}], %f${i};`)
  .join("\n")}`,
          );
          /** Row and column of a lane's register of d, from the manual's figure. */
          const place = (thread: number, i: number) => {
            const [warp, lane] = [Math.floor(thread / 32), thread % 32];
            const row = 16 * warp + Math.floor(lane / 4) + 8 * (Math.floor(i / 2) % 2);
            return row * N + 8 * Math.floor(i / 4) + 2 * (lane % 4) + (i % 2);
          };
          const fragments = (values: readonly number[]) =>
            Float32Array.from(count(64 * N), (_, at) => values[place(Math.floor(at / (N / 2)), at % (N / 2))]!);
          const pairs = Uint16Array.from(count(128 * 8), (at) => {
            const [thread, i] = [Math.floor(at / 8), at % 8];
            const row = 16 * Math.floor(thread / 32) + Math.floor((thread % 32) / 4) + 8 * (Math.floor(i / 2) % 2);
            return bf16(a[16 * row + 2 * (thread % 4) + 8 * Math.floor(i / 4) + (i % 2)]!);
          });
          const out = session.buffer(4 * 64 * N);
          const given = [image(a, b, N, along), pairs, fragments(start)].map((data) => session.buffer(data));
          run(code, [...given, out]);
          const product = count(64 * N).map((at) => {
            const [m, n] = [Math.floor(at / N), at % N];
            return start[at]! + 2 * count(16).reduce((sum, k) => sum + a[16 * m + k]! * b[N * k + n]!, 0);
          });
          expect(new Float32Array(session.read(out, 4 * 64 * N))).toEqual(fragments(product));
        },
        2 * minutes,
      );

test(
  "a tile is exchanged by the swizzle, and zero beyond the matrix",
  () => {
    const rows = 12;
    const matrix = Uint16Array.from(count(rows * 64), (i) => 1 + i);
    const code = kernel(
      2,
      16 * 128 + 8,
      `add.u32 %r1, %r0, ${16 * 128};
setp.ne.u32 %p1, %t, 0;
@%p1 bra wait;
mbarrier.init.shared::cta.b64 [%r1], 1;
fence.proxy.async;
mbarrier.arrive.expect_tx.shared::cta.b64 _, [%r1], ${rows * 128};
mov.u32 %r2, 0;
mov.u32 %r3, 3;
cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes [%r0], [%a0, {%r2, %r3}], [%r1];
wait:
bar.sync 0;
again:
mbarrier.try_wait.parity.shared::cta.b64 %p2, [%r1], 0;
@!%p2 bra again;
mul.lo.u32 %r4, %t, 4;
mul.wide.u32 %rd1, %t, 4;
add.u32 %r5, %r4, %r0;
add.u64 %rd2, %a1, %rd1;
ld.shared.u32 %r6, [%r5];
st.global.u32 [%rd2], %r6;
ld.shared.u32 %r6, [%r5+512];
st.global.u32 [%rd2+512], %r6;
ld.shared.u32 %r6, [%r5+1024];
st.global.u32 [%rd2+1024], %r6;`,
      true,
    );
    const out = session.buffer(rows * 128);
    run(code, [session.tensorMap(session.buffer(matrix), rows), out]);
    const want = new Uint16Array(rows * 64);
    for (let row = 0; row + 3 < rows; row++)
      for (let column = 0; column < 64; column++)
        want[swizzled(row, 2 * column) / 2] = matrix[64 * (row + 3) + column]!;
    expect(new Uint16Array(session.read(out, rows * 128))).toEqual(want);
  },
  minutes,
);

test(
  "an mbarrier's phase ends with its last arrival, and its parity says which phase is over",
  () => {
    // In each of four turns one warp adds its number; all threads arrive, then wait: (((0·2 + 0)·2 + 1)·2 + 2)·2 + 3.
    const code = kernel(
      1,
      64,
      `setmaxnreg.dec.sync.aligned.u32 40;
setmaxnreg.inc.sync.aligned.u32 232;
add.u32 %r1, %r0, 32;
setp.ne.u32 %p1, %t, 0;
@%p1 bra begin;
mbarrier.init.shared::cta.b64 [%r1], 128;
st.shared.u32 [%r0], 0;
begin:
bar.sync 0;
mov.u32 %r4, 0;
turn:
shl.b32 %r5, %r4, 5;
setp.ne.u32 %p2, %r5, %t;
@%p2 bra arrive;
ld.shared.u32 %r6, [%r0];
mad.lo.u32 %r6, %r6, 2, %r4;
st.shared.u32 [%r0], %r6;
st.global.u32 [%a0], %r6;
arrive:
mbarrier.arrive.shared::cta.b64 _, [%r1];
and.b32 %r7, %r4, 1;
again:
mbarrier.try_wait.parity.shared::cta.b64 %p3, [%r1], %r7;
@!%p3 bra again;
add.u32 %r4, %r4, 1;
setp.lt.u32 %p4, %r4, 4;
@%p4 bra turn;`,
    );
    const out = session.buffer(4);
    run(code, [out]);
    expect([...new Uint32Array(session.read(out, 4))]).toEqual([11]);
  },
  minutes,
);
