/**
 * Copies parameters to and from row-major memory. Matrices are packed into the kernels' layout, which depends
 * on the type of the parameter; the rest is converted.
 */
import type { Kernels } from "../../../ffi/bindings/cpu.ts";
import { bytesAt, mapAnonymous } from "../../../ffi/bindings/libc.ts";
import { bytesPerElement } from "../../tensor/dtype.ts";
import { nf4Layout } from "../../tensor/nf4.ts";
import type { Device, Weight } from "../device.ts";
import { dim } from "../operands.ts";
import { typeCode } from "./operands.ts";

/** Rows of a panel, in which every layout of a matrix is cut (PANEL in ffi/cpu/simd.h). */
const PANEL = 16;

const layoutCode = (w: Weight) => typeCode({ dtype: w.layoutOf ?? w.dtype });

/** Bytes of masters that are float32 at once, while they are loaded or saved. */
const WHOLE_BYTES = 2 * 2 ** 20;

type Parameters = Pick<Device, "loadParameter" | "saveParameter" | "nf4Layout" | "loadCodes">;

/** Codes in panels (ffi/cpu/nf4.h). */
function cpuNf4Layout(shape: readonly number[]) {
  const [n = 0, k = 1] = shape;
  return nf4Layout(n * k, Math.ceil(n / PANEL) * k * (PANEL / 2));
}

/** The code of 0, in padding. */
const NF4_ZERO = 7;

export function openParameters(kernels: Kernels): Parameters {
  const load: Device["loadParameter"] = (w, address, dtype, from, count) => {
    const types = [typeCode(w), typeCode({ dtype })] as const;
    if (w.shape.length === 2) {
      kernels.weight_pack(w.address, address, from, count, dim(w, 0), dim(w, 1), ...types, layoutCode(w));
    } else {
      kernels.cast(w.address + from * bytesPerElement(w.dtype), address, count, ...types);
    }
  };
  const save: Device["saveParameter"] = (address, dtype, w, from, count) => {
    const types = [typeCode({ dtype }), typeCode(w)] as const;
    if (w.shape.length === 2) {
      kernels.weight_unpack(address, w.address, from, count, dim(w, 1), ...types, layoutCode(w));
    } else {
      kernels.cast(address, w.address + from * bytesPerElement(w.dtype), count, ...types);
    }
  };
  return {
    loadParameter(w, address, dtype, from, count) {
      if (w.upper === undefined) return load(w, address, dtype, from, count);
      for (const { part, upper, lower, done, free } of whole(w, w.upper, from, count)) {
        const row = done * (w.shape[1] ?? 1) * bytesPerElement(dtype);
        load(part, address + row, dtype, 0, dim(part, 0));
        kernels.split_masters(upper, lower, part.address, part.elements);
        free();
      }
    },
    saveParameter(address, dtype, w, from, count) {
      if (w.upper === undefined) return save(address, dtype, w, from, count);
      for (const { part, upper, lower, done, free } of whole(w, w.upper, from, count)) {
        const row = done * (w.shape[1] ?? 1) * bytesPerElement(dtype);
        kernels.masters(part.address, upper, lower, part.elements, 0);
        save(address + row, dtype, part, 0, dim(part, 0));
        free();
      }
    },
    nf4Layout: cpuNf4Layout,
    loadCodes(w, codes, from, count) {
      const [, width = 1] = w.shape;
      const panels = Math.ceil(count / PANEL);
      const { codes: at } = cpuNf4Layout(w.shape);
      const half = PANEL / 2;
      const target = new Uint8Array(bytesAt(w.address + at + (from / PANEL) * width * half, panels * width * half));
      const code = (row: number, k: number) => {
        if (row >= count) return NF4_ZERO;
        const element = row * width + k;
        return (codes[element >> 1]! >> (element & 1 ? 0 : 4)) & 15;
      };
      for (let panel = 0, to = 0; panel < panels; panel++)
        for (let k = 0; k < width; k++)
          for (let j = 0; j < half; j++, to++) {
            const row = panel * PANEL + j;
            target[to] = code(row, k) | (code(row + half, k) << 4);
          }
    },
  };
}

/** Rows of masters in two halves, with memory for them as float32. */
interface WholeMasters {
  readonly part: Weight;
  readonly upper: number;
  readonly lower: number;
  /** Rows before these. */
  readonly done: number;
  free(): void;
}

/** Rows [from, from + count) in pieces, which are panels of 16 rows one after the other, whatever the layout within. */
function* whole(w: Weight, upper: number, from: number, count: number): Generator<WholeMasters> {
  const [N = 0, ...inner] = w.shape;
  const panel = inner.length > 0 ? PANEL : 1;
  if (from % panel !== 0) throw new RangeError(`${w.name}: masters from row ${from}, which begins no panel`);
  const panelElements = w.elements / Math.ceil(N / panel);
  const rows = Math.max(1, Math.floor(WHOLE_BYTES / 4 / panelElements)) * panel;
  for (let done = 0; done < count; done += rows) {
    const own = Math.min(rows, count - done);
    const elements = Math.ceil(own / panel) * panelElements;
    const before = ((from + done) / panel) * panelElements * 2;
    const memory = mapAnonymous(elements * 4);
    const part: Weight = { ...w, address: memory.address, shape: [own, ...inner], elements };
    yield { part, upper: upper + before, lower: w.address + before, done, free: memory.free };
  }
}
