/**
 * Runs the ops that use scratch memory once, at the sizes given as JSON, in both types (or in float32 alone); prints in bytes what the threads then
 * hold and what the device had announced. Optional arguments: a path and a library. It is a separate process because scratch
 * memory is never freed.
 */
import { openCpuDevice } from "../../src/device/cpu/device.ts";
import { PAGE_TOKENS, type ScratchSizes, type Weight } from "../../src/device/device.ts";
import { bytesPerElement, type ComputeDType, type DType } from "../../src/tensor/dtype.ts";
import { elementCount, rows, type Tensor, tensor } from "../../src/tensor/tensor.ts";

const sizes = JSON.parse(process.argv[2] ?? "") as ScratchSizes;
const { vocabSize: V, hiddenSize: D, intermediateSize: F, attention: shape, longest, tokens: T } = sizes;
const [, , , path, libraryFile] = process.argv;
const device = await openCpuDevice({ threads: 2, ...(path && libraryFile ? { path, libraryFile } : {}) });
const { ops } = device;

// Memory that was never written reads as zero and costs nothing.
function make(dtype: DType, ...dims: number[]): Tensor {
  return tensor("t", device.allocate(elementCount(dims) * bytesPerElement(dtype), "test").address, dtype, dims);
}
function weight(dtype: ComputeDType, ...dims: number[]): Weight {
  const elements = device.parameterElements(dims, dtype);
  return { name: "w", address: make(dtype, elements).address, dtype, shape: dims, elements };
}
function integers(...values: number[]): Tensor {
  const t = make("int32", values.length);
  device.upload(t, Int32Array.from(values));
  return t;
}

const heads = shape.heads * shape.headDim;
const qkvWidth = (shape.heads + 2 * shape.kvHeads) * shape.headDim;
const headRows = Math.min(T, 64);

/** Of a large adapter. */
const ADAPTER_RANK = 512;

for (const dtype of sizes.dtype === "float32" ? (["float32"] as const) : (["float32", "bfloat16"] as const)) {
  const grad = device.gradientDType(dtype);
  for (const [N, K] of [
    [2 * F, D],
    [D, F],
    [qkvWidth, D],
    [D, heads],
  ] as const) {
    const [w, x, dy] = [weight(dtype, N, K), make(dtype, T, K), make(grad, T, N)];
    ops.matmulForward(make(dtype, T, N), x, w, null);
    ops.matmulForward(make(dtype, 1, N), rows(x, 0, 1), w, null);
    ops.matmulBackwardInput(make(grad, T, K), dy, w);
    const term = { down: make(dtype, T, ADAPTER_RANK), b: weight(dtype, N, ADAPTER_RANK), from: 0 };
    ops.adaptedForward(make(dtype, T, N), x, w, null, [term]);
    ops.matmulBackwardWeight(make("float32", w.elements), dy, x, w);
  }
  const prompt = Math.floor(longest / 2);
  const qkv = make(dtype, longest, qkvWidth);
  const segments = make("int32", 2, 4);
  device.upload(segments, Int32Array.of(0, prompt, 0, 0, prompt, longest - prompt, 0, prompt));
  const [out, lse] = [make(dtype, longest, heads), make("float32", longest, shape.heads)];
  ops.attentionForward(out, lse, qkv, segments, shape);
  const scratch = make("float32", longest, device.attentionScratchElements(shape));
  const [dqkv, dout] = [make(grad, longest, qkvWidth), make(grad, longest, heads)];
  ops.attentionBackward(dqkv, dout, qkv, out, lse, segments, scratch, shape);
  const page = device.pageElements(shape);
  const pages = { keys: make(dtype, 2, page.keys), values: make(dtype, 2, page.values) };
  const pageTable = make("int32", 1, 1);
  const row = rows(qkv, 0, 1);
  const table = () => make("float32", 1, shape.headDim / 2);
  const transform = { norms: null, positions: integers(0), cos: table(), sin: table() };
  const place = { pages, page: integers(0), offset: integers(0) };
  ops.attentionDecode(
    rows(out, 0, 1),
    row,
    row,
    transform,
    place,
    pageTable,
    integers(0),
    integers(PAGE_TOKENS),
    shape,
  );

  const w = weight(dtype, V, D);
  const hidden = make(dtype, headRows, D);
  const logits = make("float32", headRows, V);
  const entries = integers(...Array.from({ length: headRows + 1 }, (_, i) => i));
  const targets = make("int32", headRows);
  const floats = () => make("float32", headRows);
  const [logprob, entropy, rowLse, drawn] = [floats(), floats(), floats(), floats()];
  ops.lmHeadForward(logprob, entropy, rowLse, logits, hidden, w, entries, targets, 1);
  const [dhidden, dw] = [make("float32", headRows, D), make("float32", w.elements)];
  ops.lmHeadBackward(dhidden, dw, logits, floats(), floats(), hidden, w, entries, targets, rowLse, entropy, 1, true);
  const seen = make("uint32", 1, Math.ceil(V / 32));
  const settings = { seed: 1, stream: 1, temperature: 1, topK: 0, topP: 0.9, minP: 0, repetitionPenalty: 1.1 };
  ops.sample(targets, logprob, drawn, logits, make("int32", headRows), make("int32", headRows, 5), seen, settings);
}
console.log(JSON.stringify({ held: device.library.scratchBytes(), planned: device.scratchBytes(sizes) }));
process.exit(0);
