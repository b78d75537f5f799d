/**
 * Loads, stores, atomics, asynchronous copies and addresses, in each state space, following "Data Movement" and "Parallel
 * Synchronization".
 */
import { add, decode, encode, formats } from "./exact.ts";
import {
  type Bits,
  byFormula,
  type Form,
  maximum,
  minimum,
  product,
  scratchValue,
  signed,
  unsigned,
  widthOf,
} from "./form.ts";
import { edge32, few32, few64 } from "./values.ts";

/** 16 bytes of shared memory for each thread of the block, at `own`. */
const sharedSlot = `.shared .align 16 .b8 slots[2048];
.reg .b32 own, thread;
mov.u32 thread, %tid.x;
mov.u32 own, slots;
mad.lo.u32 own, thread, 16, own;
`;
const localSlot = ".local .align 16 .b8 mine[16];\n";

const types = ["b8", "u8", "s8", "b16", "u16", "s16", "b32", "u32", "s32", "f32", "b64", "u64", "s64", "f64"];

/** A load extends to the register: with the sign for s types. Offsets into the scratch memory are aligned to 16. */
function loads(): Form[] {
  const offsets = [0, 16, 240, 4096, 65520].map(BigInt);
  const value = (type: string, offset: Bits, i = 0) =>
    scratchValue(Number(offset) + (i * widthOf(type)) / 8, widthOf(type) / 8);
  const extended = (type: string, bits: Bits) => (type[0] === "s" ? signed(bits, widthOf(type)) : bits);
  const spaces = [
    "ld.global",
    "ld.global.nc",
    "ld",
    "ld.volatile.global",
    "ld.relaxed.gpu.global",
    "ld.global.L1::no_allocate",
    "ld.global.cg",
  ];
  return types.flatMap((type) => [
    ...spaces
      .filter(
        (op) => op === "ld.global" || op === "ld" || op === "ld.global.nc" || ["b32", "u32", "f32"].includes(type),
      )
      .map((op) =>
        byFormula(`${op}.${type} {d}, [{a}];`, `ptr -> ${type}`, product(offsets), (a) =>
          unsigned(extended(type, value(type, a!)), 64),
        ),
      ),
    byFormula(`ld.global.${type} {d}, [{a}+8];`, `ptr -> ${type}`, product(offsets), (a) =>
      unsigned(extended(type, value(type, a! + 8n)), 64),
    ),
    ...(widthOf(type) <= 16 && type[0] !== "b"
      ? [
          byFormula(`ld.global.${type} {d}, [{a}];`, `ptr -> ${type}:b32`, product(offsets), (a) =>
            unsigned(extended(type, value(type, a!)), 32),
          ),
        ]
      : []),
    ...[2, 4]
      .filter((n) => n * widthOf(type) <= 128 && widthOf(type) > 8)
      .map((n) => {
        const outputs = Array.from({ length: n }, (_, i) => i);
        return byFormula(
          `ld.global.v${n}.${type} {${outputs.map((i) => `{d${i}}`)}}, [{a}];`,
          `ptr -> ${outputs.map(() => type).join(" ")}`,
          product(offsets),
          (a) => outputs.map((i) => value(type, a!, i)),
        );
      }),
    ...[2, 4]
      .filter((n) => n * widthOf(type) <= 128 && ["u32", "f32", "b32", "b64", "u64", "u16"].includes(type))
      .map((n) => {
        const outputs = Array.from({ length: n }, (_, i) => i);
        return byFormula(
          `ld.global.nc.v${n}.${type} {${outputs.map((i) => `{d${i}}`)}}, [{a}];`,
          `ptr -> ${outputs.map(() => type).join(" ")}`,
          product(offsets),
          (a) => outputs.map((i) => value(type, a!, i)),
        );
      }),
  ]);
}

/** Stored, then loaded as bytes from the same place. */
function stores(): Form[] {
  const places: Record<string, readonly [string, string]> = {
    shared: [sharedSlot, "[own]"],
    local: [localSlot, "[mine]"],
  };
  return Object.entries(places).flatMap(([space, [prepare, at]]) =>
    types.flatMap((type) => {
      const bits = widthOf(type);
      const list = bits === 64 ? few64 : few32.map((x) => unsigned(x, Math.max(bits, 16)));
      const back = (x: Bits) => unsigned(type[0] === "s" ? signed(x, bits) : unsigned(x, bits), Math.max(bits, 16));
      const single = byFormula(
        `${prepare}st.${space}.${type} ${at}, {a};\nld.${space}.${type} {d}, ${at};`,
        `${type} -> ${type}`,
        product(list),
        (a) => back(a!),
      );
      const vectors = [2, 4]
        .filter((n) => n * bits <= 128 && bits > 8)
        .map((n) => {
          const names = ["a", "b", "c", "e"].slice(0, n);
          const cases = list.map((_, i) => names.map((_, k) => list[(i + k) % list.length]!));
          return byFormula(
            `${prepare}st.${space}.v${n}.${type} ${at}, {${names.map((x) => `{${x}}`)}};
ld.${space}.v${n}.${type} {${names.map((_, i) => `{d${i}}`)}}, ${at};`,
            `${names.map(() => type).join(" ")} -> ${names.map(() => type).join(" ")}`,
            cases,
            (...inputs) => inputs,
          );
        });
      return [single, ...vectors];
    }),
  );
}

/** Each thread has its own 16 bytes of the scratch memory: written, then read again. */
function globalStores(): Form[] {
  return types.flatMap((type) => {
    const bits = widthOf(type);
    const list = bits === 64 ? few64 : few32.map((x) => unsigned(x, Math.max(bits, 16)));
    const place = (i: number) => BigInt(i * 16);
    const back = (x: Bits) => unsigned(type[0] === "s" ? signed(x, bits) : unsigned(x, bits), Math.max(bits, 16));
    const single = (op: string) =>
      byFormula(
        `${op}.${type} [{a}], {b};\nld.global.${type} {d}, [{a}];`,
        `ptr ${type} -> ${type}`,
        list.map((x, i) => [place(i), x]),
        (_, b) => back(b!),
      );
    const vectors = [2, 4]
      .filter((n) => n * bits <= 128 && bits > 8)
      .map((n) => {
        const names = ["b", "c", "e", "f"].slice(0, n);
        const cases = list.map((_, i) => [place(i), ...names.map((_, k) => list[(i + k) % list.length]!)]);
        return byFormula(
          `st.global.v${n}.${type} [{a}], {${names.map((x) => `{${x}}`)}};
ld.global.v${n}.${type} {${names.map((_, i) => `{d${i}}`)}}, [{a}];`,
          `ptr ${names.map(() => type).join(" ")} -> ${names.map(() => type).join(" ")}`,
          cases,
          (_, ...rest) => rest,
        );
      });
    return [
      single("st.global"),
      ...(bits === 32 ? [single("st"), single("st.volatile.global"), single("st.relaxed.gpu.global")] : []),
      ...vectors,
    ];
  });
}

type Update = (old: bigint, b: bigint, c: bigint) => bigint;

const updates: Record<string, readonly [types: string, arity: number, update: Update]> = {
  add: ["u32 s32 u64 f32 f64", 1, (old, b) => old + b],
  min: ["u32 s32 u64 s64", 1, minimum],
  max: ["u32 s32 u64 s64", 1, maximum],
  and: ["b32 b64", 1, (old, b) => old & b],
  or: ["b32 b64", 1, (old, b) => old | b],
  xor: ["b32 b64", 1, (old, b) => old ^ b],
  exch: ["b32 b64", 1, (_, b) => b],
  // Up to b and then zero; down to zero and then b.
  inc: ["u32", 1, (old, b) => (old >= b ? 0n : old + 1n)],
  dec: ["u32", 1, (old, b) => (old === 0n || old > b ? b : old - 1n)],
  cas: ["b32 b64", 2, (old, b, c) => (old === b ? c : old)],
};

/** The old value is the result; the new one is read back. Inputs: old, b, and c for cas. */
function atomics(): Form[] {
  return Object.entries(updates).flatMap(([op, [list, arity, update]]) =>
    list.split(" ").flatMap((type) => {
      const bits = widthOf(type);
      const float = type === "f32" || type === "f64" ? formats[type] : undefined;
      const values = float
        ? type === "f32"
          ? [0n, 0x3f800000n, 0xbf800001n, 0x7f7fffffn]
          : [0n, 0x3ff0000000000000n, 0x7fefffffffffffffn]
        : bits === 64
          ? few64
          : few32;
      const cases = arity === 2 ? product(values, values.slice(0, 3), values.slice(2, 4)) : product(values, values);
      const typed = (x: Bits) => (type[0] === "s" ? signed(x, bits) : x);
      const next = (old: Bits, b: Bits, c: Bits) =>
        float
          ? encode(float, add(decode(float, old), decode(float, b)))
          : unsigned(update(typed(old), typed(b), typed(c)), bits);
      const operands = arity === 2 ? "{b}, {c}" : "{b}";
      const inputs = `${type} ${type}${arity === 2 ? ` ${type}` : ""}`;
      const move = `b${bits}`;
      const shared = (name: string) =>
        byFormula(
          `${sharedSlot}st.shared.${move} [own], {a};\n${name} {d0}, [own], ${operands};\nld.shared.${move} {d1}, [own];`,
          `${inputs} -> ${type} ${type}`,
          cases,
          (a, b, c) => [a!, next(a!, b!, c ?? 0n)],
        );
      const global = (name: string) =>
        byFormula(
          `st.global.${move} [{a}], {b};\n${name} {d0}, [{a}], ${arity === 2 ? "{c}, {e}" : "{c}"};\nld.global.${move} {d1}, [{a}];`,
          `ptr ${inputs} -> ${type} ${type}`,
          cases.map((row, i) => [BigInt(i * 16), ...row]),
          (_, a, b, c) => [a!, next(a!, b!, c ?? 0n)],
        );
      const forms = [shared(`atom.shared.${op}.${type}`), global(`atom.global.${op}.${type}`)];
      if (op === "exch" || op === "cas") return forms;
      const silent = byFormula(
        `st.global.${move} [{a}], {b};\nred.global.${op}.${type} [{a}], {c};\nld.global.${move} {d}, [{a}];`,
        `ptr ${inputs} -> ${type}`,
        cases.map((row, i) => [BigInt(i * 16), ...row]),
        (_, a, b) => next(a!, b!, 0n),
      );
      const silentShared = byFormula(
        `${sharedSlot}st.shared.${move} [own], {a};\nred.shared.${op}.${type} [own], {b};\nld.shared.${move} {d}, [own];`,
        `${inputs} -> ${type}`,
        cases,
        (a, b) => next(a!, b!, 0n),
      );
      return [...forms, silent, silentShared];
    }),
  );
}

/** Into shared memory, followed by a wait; bytes past the source's size become zero. */
function asynchronous(): Form[] {
  const offsets = [0, 16, 1024, 65520].map(BigInt);
  const waits = {
    group: "cp.async.commit_group;\ncp.async.wait_group 0;",
    all: "cp.async.wait_all;",
  };
  const outputs = (bytes: number) => Array.from({ length: bytes / 4 }, (_, i) => i);
  const read = (bytes: number) =>
    outputs(bytes)
      .map((i) => `ld.shared.b32 {d${i}}, [own+${4 * i}];`)
      .join("\n");
  const whole = (name: string, bytes: number, wait: string) =>
    byFormula(
      `${sharedSlot}${name} [own], [{a}], ${bytes};\n${wait}\n${read(bytes)}`,
      `ptr -> ${outputs(bytes)
        .map(() => "b32")
        .join(" ")}`,
      product(offsets),
      (a) => outputs(bytes).map((i) => scratchValue(Number(a!) + 4 * i, 4)),
    );
  const part = (name: string, bytes: number, sizes: readonly bigint[]) =>
    byFormula(
      `${sharedSlot}${name} [own], [{a}], ${bytes}, {b};\n${waits.group}\n${read(bytes)}`,
      `ptr u32 -> ${outputs(bytes)
        .map(() => "b32")
        .join(" ")}`,
      product(offsets, sizes),
      (a, b) =>
        outputs(bytes).map((i) => {
          const left = Math.max(0, Math.min(4, Number(b!) - 4 * i));
          return scratchValue(Number(a!) + 4 * i, left);
        }),
    );
  return [
    whole("cp.async.cg.shared.global", 16, waits.group),
    whole("cp.async.cg.shared.global.L2::128B", 16, waits.group),
    ...[4, 8, 16].map((bytes) => whole("cp.async.ca.shared.global", bytes, waits.all)),
    part("cp.async.cg.shared.global", 16, [0n, 4n, 6n, 16n]),
    part("cp.async.ca.shared.global", 4, [0n, 2n, 4n]),
    // Two groups: all but the latest are complete.
    byFormula(
      `${sharedSlot}cp.async.ca.shared.global [own], [{a}], 4;
cp.async.commit_group;
cp.async.ca.shared.global [own+4], [{a}+4], 4;
cp.async.commit_group;
cp.async.wait_group 1;
ld.shared.b32 {d0}, [own];
cp.async.wait_group 0;
ld.shared.b32 {d1}, [own+4];`,
      "ptr -> b32 b32",
      product(offsets),
      (a) => [scratchValue(Number(a!), 4), scratchValue(Number(a!) + 4, 4)],
    ),
  ];
}

/** Generic addresses: a value written through one window is read through the other. */
function addresses(): Form[] {
  const wide = ".reg .b64 window, generic, inside;\n.reg .b32 narrow;\n";
  const through = (space: "shared" | "local", prepare: string, name: string) =>
    byFormula(
      `${prepare}${wide}${name}
cvta.${space}.u64 generic, window;
st.u32 [generic], {a};
cvta.to.${space}.u64 inside, generic;
ld.${space}.u32 {d0}, [inside];
ld.u32 {d1}, [generic];
isspacep.${space} {d2}, generic;
isspacep.global {d3}, generic;`,
      "u32 -> u32 u32 pred pred",
      product(edge32),
      (a) => [a!, a!, 1n, 0n],
    );
  return [
    through("shared", sharedSlot, "cvt.u64.u32 window, own;"),
    through("local", localSlot, "mov.u64 window, mine;"),
    byFormula(
      `${wide}cvta.to.global.u64 inside, {a};\ncvta.global.u64 generic, inside;\nld.global.u32 {d0}, [inside];\nld.u32 {d1}, [generic];\nisspacep.global {d2}, generic;\nisspacep.shared {d3}, generic;`,
      "ptr -> u32 u32 pred pred",
      product([0n, 64n]),
      (a) => [scratchValue(Number(a!), 4), scratchValue(Number(a!), 4), 1n, 0n],
    ),
  ];
}

/** Fences and hints do not change values. */
function fences(): Form[] {
  const silent = [
    "membar.cta;",
    "membar.gl;",
    "fence.acq_rel.gpu;",
    "fence.sc.cta;",
    "fence.acq_rel.cta;",
    "prefetch.global.L2 [{a}];",
    "prefetch.global.L1 [{a}];",
    "nanosleep.u32 20;",
  ];
  return silent.map((line) =>
    byFormula(`${line}\nld.global.u32 {d}, [{a}];`, "ptr -> u32", product([0n, 32n]), (a) =>
      scratchValue(Number(a!), 4),
    ),
  );
}

export const memoryForms: readonly Form[] = [
  ...loads(),
  ...stores(),
  ...globalStores(),
  ...atomics(),
  ...asynchronous(),
  ...addresses(),
  ...fences(),
];
