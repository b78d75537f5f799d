/**
 * The engine's promises beyond values and planted bugs (vectors/, planted/): exact counters, barriers for some of a block's
 * warps, the same results with several threads, matrix instructions executed together, modules with their own variables.
 */
import { afterAll, describe, expect, test } from "bun:test";
import { buildEmulator } from "../build.ts";
import { threadOrders } from "../control.ts";
import { openSession } from "../planted/session.ts";

const minutes = 60_000;
const { folder } = await buildEmulator();
const session = openSession(folder);
afterAll(() => session.control.reset());

/** A module of one kernel with `parameters` pointers, loaded into %a0, %a1, …, and %t, the thread's index in the grid. */
function kernel(name: string, parameters: number, body: string, module = ""): number {
  const list = Array.from({ length: parameters }, (_, i) => `.param .u64 p${i}`).join(", ");
  const loads = Array.from({ length: parameters }, (_, i) => `ld.param.u64 %a${i}, [p${i}];`).join("\n");
  const ptx = `.version 8.0
.target sm_80
.address_size 64
${module}
.visible .entry ${name}(${list})
{
.reg .pred %p<8>;
.reg .b32 %r<64>;
.reg .f32 %f<64>;
.reg .b64 %rd<16>, %a<8>;
.reg .b32 %t, %n, %b;
mov.u32 %t, %tid.x;
mov.u32 %n, %ntid.x;
mov.u32 %b, %ctaid.x;
mad.lo.u32 %t, %b, %n, %t;
${loads}
${body}
}
`;
  return session.kernelOf(ptx, name);
}

const floats = (address: number, count: number) => new Float32Array(session.read(address, 4 * count));
const words = (address: number, count: number) => [...new Uint32Array(session.read(address, 4 * count))];

function counted(name: string) {
  const found = session.control.counters().find((each) => each.kernel === name);
  if (!found) throw new Error(`${name} was not counted`);
  return found;
}

describe("counters", () => {
  test(
    "of a loop, of what a predicate leaves out, of sectors",
    () => {
      const run = kernel(
        "loop",
        2,
        `mul.wide.u32 %rd0, %t, 4;
add.u64 %rd1, %a0, %rd0;
add.u64 %rd2, %a1, %rd0;
ld.global.f32 %f1, [%rd1];
mov.u32 %r1, 0;
again:
fma.rn.f32 %f1, %f1, 0f3F000000, 0f3F800000;
add.u32 %r1, %r1, 1;
setp.lt.u32 %p1, %r1, 5;
@%p1 bra again;
setp.lt.u32 %p2, %t, 10;
@%p2 mul.f32 %f1, %f1, 0f40000000;
st.global.f32 [%rd2], %f1;
ret;`,
      );
      const [x, y] = [session.buffer(new Float32Array(64).fill(2)), session.buffer(256)];
      session.control.clearCounters();
      session.launch(run, 1, 64, 0, [x, y]);
      expect(floats(y, 64)).toEqual(Float32Array.from({ length: 64 }, (_, i) => (i < 10 ? 4 : 2)));
      expect(counted("loop")).toMatchObject({
        launches: 1,
        threads: 64,
        instructions: 64 * (4 + 2 + 5 + 5 * 4 + 1 + 2) + 10,
        fused: 64 * 5,
        floating: 10,
        memory: 64 * 2,
        control: 64 * (5 + 1),
        flops: 64 * 5 * 2 + 10,
        sectors: 16,
        idealSectors: 16,
      });
    },
    2 * minutes,
  );
});

/** Warp 0 writes 32 words, warps 1 and 2 each read them; the writer executes `meet`, a reader `wait`. */
function handOver(name: string, writer: string, reader: string): number {
  return kernel(
    name,
    1,
    `mov.u32 %r1, buffer;
and.b32 %r2, %t, 31;
shl.b32 %r3, %r2, 2;
add.u32 %r1, %r1, %r3;
setp.ge.u32 %p1, %t, 32;
@%p1 bra read;
st.shared.u32 [%r1], %t;
${writer}
ret;
read:
setp.ge.u32 %p2, %t, 64;
${reader}
xor.b32 %r1, %r1, 4;
ld.shared.u32 %r4, [%r1];
mul.wide.u32 %rd0, %t, 4;
add.u64 %rd1, %a0, %rd0;
st.global.u32 [%rd1], %r4;
ret;`,
    ".shared .align 4 .b8 buffer[128];",
  );
}

describe("barriers of some warps", () => {
  const bothMeet = handOver("both_meet", "bar.arrive 1, 96;", "bar.sync 1, 96;");
  const oneIsLeftOut = handOver("one_is_left_out", "bar.arrive 1, 64;", "@%p2 bra late;\nbar.sync 1, 64;\nlate:");
  for (const order of threadOrders) {
    test(
      `order what they meet for and nothing else: ${order}`,
      () => {
        session.control.setOrder(order, 7);
        session.control.clearReports();
        const y = session.buffer(4 * 96);
        session.launch(bothMeet, 1, 96, 0, [y]);
        expect(words(y, 96).slice(32)).toEqual(Array.from({ length: 64 }, (_, i) => (i % 32) ^ 1));
        expect(session.control.reports()).toEqual([]);
        session.launch(oneIsLeftOut, 1, 96, 0, [y]);
        session.synchronize();
        const kinds = session.control.reports().map(({ kind }) => kind);
        expect(kinds.length).toBeGreaterThan(0);
        for (const kind of kinds) expect(["race", "uninitialized"]).toContain(kind);
        session.control.setOrder("ascending");
      },
      2 * minutes,
    );
  }
});

test(
  "two threads give the bits and the counts of one",
  () => {
    const run = kernel(
      "rounds",
      1,
      `cvt.rn.f32.u32 %f1, %t;
mov.u32 %r1, 0;
again:
ex2.approx.f32 %f2, %f1;
fma.rn.f32 %f1, %f2, 0f3DCCCCCD, 0fBF000000;
shfl.sync.bfly.b32 %f3, %f1, 1, 31, -1;
add.f32 %f1, %f1, %f3;
bar.sync 0;
add.u32 %r1, %r1, 1;
setp.lt.u32 %p1, %r1, 20;
@%p1 bra again;
mul.wide.u32 %rd0, %t, 4;
add.u64 %rd1, %a0, %rd0;
st.global.f32 [%rd1], %f1;
ret;`,
    );
    const [blocks, size] = [64, 128];
    session.control.setCheck(false);
    const results = [1, 2, 3].map((threads) => {
      session.control.setThreads(threads);
      session.control.clearCounters();
      const y = session.buffer(4 * blocks * size);
      session.launch(run, blocks, size, 0, [y]);
      return { bits: words(y, blocks * size), counters: counted("rounds") };
    });
    session.control.setThreads(1);
    session.control.setCheck(true);
    expect(results[1]).toEqual(results[0]!);
    expect(results[2]).toEqual(results[0]!);
  },
  2 * minutes,
);

test(
  "matrix instructions executed together give the same bits as separately",
  () => {
    // The second product uses the first's result, the address advances between two loads, an input is overwritten.
    const body = (apart: string) => `mov.u32 %r1, buffer;
shl.b32 %r2, %t, 4;
add.u32 %r2, %r1, %r2;
mad.lo.u32 %r3, %t, 259, 16000;
st.shared.v4.u32 [%r2], {%r3, %t, %r3, %r3};
bar.sync 0;
mov.f32 %f1, 0f3F800000;
ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%r10, %r11, %r12, %r13}, [%r2];
${apart}
xor.b32 %r2, %r2, 64;
ldmatrix.sync.aligned.m8n8.x2.trans.shared.b16 {%r14, %r15}, [%r2];
${apart}
mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%f4, %f5, %f6, %f7}, {%r10, %r11, %r12, %r13}, {%r14, %r15}, {%f1, %f1, %f1, %f1};
${apart}
mov.f32 %f1, 0f40000000;
mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%f4, %f5, %f6, %f7}, {%r12, %r11, %r10, %r13}, {%r15, %r14}, {%f5, %f4, %f1, %f7};
mul.wide.u32 %rd0, %t, 16;
add.u64 %rd1, %a0, %rd0;
st.global.v4.f32 [%rd1], {%f4, %f5, %f6, %f7};
ret;`;
    const memory = ".shared .align 16 .b8 buffer[512];";
    const results = ["", "bar.warp.sync -1;"].map((apart, i) => {
      const name = i === 0 ? "together" : "apart";
      session.control.clearCounters();
      const y = session.buffer(4 * 128);
      session.launch(kernel(name, 1, body(apart), memory), 1, 32, 0, [y]);
      const bits = words(y, 128);
      expect(counted(name)).toMatchObject({ mma: 64, ldmatrix: 64, mmaFlops: 2 * 2 * 16 * 8 * 16 });
      return bits;
    });
    expect(results[0]).toEqual(results[1]!);
    expect(new Set(results[0]).size).toBeGreaterThan(8);
  },
  2 * minutes,
);

test(
  "two modules of the same source have separate variables",
  () => {
    const body = `mov.u64 %rd0, total;
atom.global.add.u32 %r1, [%rd0], 1;
st.global.u32 [%a0], %r1;
ret;`;
    const [first, second] = ["// one", "// other"].map((comment) =>
      kernel("tally", 1, body, `${comment}\n.global .align 4 .u32 total = 5;`),
    );
    const y = session.buffer(4);
    const read = (run: number) => {
      session.launch(run, 1, 1, 0, [y]);
      return words(y, 1)[0];
    };
    expect([read(first!), read(first!), read(second!), read(first!)]).toEqual([5, 6, 5, 7]);
  },
  2 * minutes,
);

test(
  "approximate results are off by 2^-22 on request",
  () => {
    const run = kernel(
      "approximate",
      1,
      `cvt.rn.f32.u32 %f1, %t;
rcp.approx.f32 %f1, %f1;
mul.wide.u32 %rd0, %t, 4;
add.u64 %rd1, %a0, %rd0;
st.global.f32 [%rd1], %f1;
ret;`,
    );
    const [exact, perturbed] = [false, true].map((perturb) => {
      session.control.setPerturb(perturb);
      const y = session.buffer(4 * 64);
      session.launch(run, 1, 64, 0, [y]);
      return floats(y, 64);
    });
    session.control.setPerturb(false);
    const errors = Array.from({ length: 63 }, (_, i) => perturbed![i + 1]! / exact![i + 1]! - 1);
    for (const error of errors) expect(Math.abs(Math.abs(error) / 2 ** -22 - 1)).toBeLessThan(0.5);
    expect(new Set(errors.map(Math.sign)).size).toBe(2);
  },
  2 * minutes,
);
