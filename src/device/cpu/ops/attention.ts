/**
 * Calls of ffi/cpu/attention.cpp and heads.cpp: attention over packed segments, and of new tokens over pages of the
 * key-value cache; and what q and k go through before.
 */
import type { Kernels } from "../../../../ffi/bindings/cpu.ts";
import type { AttentionShape, Ops } from "../../device.ts";
import { dim, expectShape, headsArguments, qkvAddresses, rotatedInPlace } from "../../operands.ts";
import { addressOf, typeCode } from "../operands.ts";

type AttentionOp = "headsForward" | "attentionForward" | "attentionBackward" | "kvStore" | "attentionDecode";

const sizesOf = ({ heads, kvHeads, headDim, window = 0 }: AttentionShape) => [heads, kvHeads, headDim, window];

export function attentionOps(kernels: Kernels, { ropeForward }: Pick<Ops, "ropeForward">): Pick<Ops, AttentionOp> {
  const headsForward: Ops["headsForward"] = (qkv, rstdQ, rstdK, raw, norms, positions, cos, sin, shape) => {
    const { buffers, sizes, strides } = headsArguments(qkv, raw, { norms, positions, cos, sin }, shape);
    const outputs = [qkv.address, addressOf(rstdQ), addressOf(rstdK)];
    const last = [norms.epsilon, norms.q.offset ?? 0, typeCode(qkv), typeCode(norms.q)];
    kernels.heads_forward(...outputs, ...buffers, ...sizes, ...strides, ...last);
  };
  const kvStore: Ops["kvStore"] = (pages, qkv, page, offset, shape) => {
    const [, k, v] = qkvAddresses(qkv, shape);
    const buffers = [pages.keys.address, pages.values.address, k, v, page.address, offset.address];
    kernels.kv_store(...buffers, dim(qkv, 0), shape.kvHeads, shape.headDim, qkv.rowStride, typeCode(qkv));
  };
  return {
    headsForward,
    kvStore,
    attentionForward(out, lse, qkv, segments, shape) {
      const buffers = [out.address, addressOf(lse), ...qkvAddresses(qkv, shape), segments.address];
      const sizes = [dim(segments, 0), dim(qkv, 0), ...sizesOf(shape)];
      const strides = [out.rowStride, qkv.rowStride];
      kernels.attention_forward(...buffers, ...sizes, ...strides, shape.scale, typeCode(qkv));
    },
    attentionBackward(dqkv, dout, qkv, out, lse, segments, scratch, shape) {
      const strided = dqkv.rowStride === qkv.rowStride && dout.rowStride === out.rowStride;
      expectShape(strided, "attention: row strides differ");
      const gradients = [...qkvAddresses(dqkv, shape), dout.address];
      const inputs = [...qkvAddresses(qkv, shape), out.address, lse.address, segments.address];
      const sizes = [dim(segments, 0), dim(qkv, 0), ...sizesOf(shape)];
      const last = [qkv.rowStride, out.rowStride, shape.scale, typeCode(qkv), typeCode(dqkv)];
      kernels.attention_backward(...gradients, ...inputs, scratch.address, dim(scratch, 0), ...sizes, ...last);
    },
    attentionDecode(out, qkv, raw, transform, place, pageTable, promptLengths, completionLengths, shape) {
      const [q] = qkvAddresses(qkv, shape);
      const { norms, positions, cos, sin } = transform;
      const { pages, page, offset } = place;
      if (norms) headsForward(qkv, null, null, raw, norms, positions, cos, sin, shape);
      else ropeForward(rotatedInPlace(qkv, raw, shape), positions, cos, sin, shape.headDim);
      kvStore(pages, qkv, page, offset, shape);
      const buffers = [out.address, q, pages.keys.address, pages.values.address];
      const tables = [pageTable.address, promptLengths.address, completionLengths.address];
      const sizes = [dim(qkv, 0), pageTable.rowStride, ...sizesOf(shape)];
      const last = [out.rowStride, qkv.rowStride, shape.scale, typeCode(qkv)];
      kernels.attention_decode(...buffers, ...tables, ...sizes, ...last);
    },
  };
}
