/**
 * Calls of ffi/cpu/attention.cpp: attention over packed segments, and of new tokens over pages of the key-value cache.
 */
import type { Kernels } from "../../../../ffi/bindings/cpu.ts";
import type { Ops } from "../../device.ts";
import { dim, expectShape, qkvAddresses } from "../../operands.ts";
import { addressOf, typeCode } from "../operands.ts";

type AttentionOp = "attentionForward" | "attentionBackward" | "kvStore" | "attentionDecode";

export function attentionOps(kernels: Kernels): Pick<Ops, AttentionOp> {
  return {
    attentionForward(out, lse, qkv, segments, shape) {
      const buffers = [out.address, addressOf(lse), ...qkvAddresses(qkv, shape), segments.address];
      const sizes = [dim(segments, 0), dim(qkv, 0), shape.heads, shape.kvHeads, shape.headDim];
      const strides = [out.rowStride, qkv.rowStride];
      kernels.attention_forward(...buffers, ...sizes, ...strides, shape.scale, typeCode(qkv));
    },
    attentionBackward(dqkv, dout, qkv, out, lse, segments, scratch, shape) {
      const strided = dqkv.rowStride === qkv.rowStride && dout.rowStride === out.rowStride;
      expectShape(strided, "attention: row strides differ");
      const gradients = [...qkvAddresses(dqkv, shape), dout.address];
      const inputs = [...qkvAddresses(qkv, shape), out.address, lse.address, segments.address];
      const sizes = [dim(segments, 0), dim(qkv, 0), shape.heads, shape.kvHeads, shape.headDim];
      const last = [qkv.rowStride, out.rowStride, shape.scale, typeCode(qkv)];
      kernels.attention_backward(...gradients, ...inputs, scratch.address, dim(scratch, 0), ...sizes, ...last);
    },
    kvStore(pages, qkv, page, offset, shape) {
      const [, k, v] = qkvAddresses(qkv, shape);
      const buffers = [pages.keys.address, pages.values.address, k, v, page.address, offset.address];
      kernels.kv_store(...buffers, dim(qkv, 0), shape.kvHeads, shape.headDim, qkv.rowStride, typeCode(qkv));
    },
    attentionDecode(out, qkv, pages, pageTable, promptLengths, completionLengths, shape) {
      const [q] = qkvAddresses(qkv, shape);
      const buffers = [out.address, q, pages.keys.address, pages.values.address];
      const tables = [pageTable.address, promptLengths.address, completionLengths.address];
      const sizes = [dim(qkv, 0), pageTable.rowStride, shape.heads, shape.kvHeads, shape.headDim];
      const last = [out.rowStride, qkv.rowStride, shape.scale, typeCode(qkv)];
      kernels.attention_decode(...buffers, ...tables, ...sizes, ...last);
    },
  };
}
