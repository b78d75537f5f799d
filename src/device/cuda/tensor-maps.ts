/** Maps of matrices for the copy engine, which kernels of sm_90a take as arguments. */
import {
  CU_TENSOR_MAP_DATA_TYPE_BFLOAT16,
  CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE,
  CU_TENSOR_MAP_INTERLEAVE_NONE,
  CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
  CU_TENSOR_MAP_SWIZZLE_128B,
} from "../../../ffi/bindings/cuda.ts";
import { nativeBlock } from "../../../ffi/bindings/native.ts";
import { dim } from "../operands.ts";
import type { Gpu } from "./gpu.ts";
import type { CudaRuntime } from "./runtime.ts";

/** The compute capability whose own instructions kernels use: Hopper's. */
export const WARPGROUP_CAPABILITY = 90;
/** Columns of a tile: the 128 bytes of the swizzle. */
const PANEL_COLUMNS = 64;

/** Bytes of a map, at a multiple of 64. */
const MAP_BYTES = 128;
/** Offsets in one block of native memory: the maps of a launch, and the driver's other arguments. */
const [MAPS, EXTENT, STRIDES, BOX, ELEMENT_STRIDES, BYTES] = [0, 256, 272, 280, 288, 296];

export function openTensorMaps(gpu: Gpu): Pick<CudaRuntime, "tensorMap"> & { close(): void } {
  const block = nativeBlock(BYTES);
  const { address, view } = block;
  for (const i of [0, 4]) view.setUint32(ELEMENT_STRIDES + i, 1, true);
  view.setUint32(BOX, PANEL_COLUMNS, true);
  return {
    tensorMap(matrix, tileRows, place = 0) {
      const map = address + MAPS + place * MAP_BYTES;
      block.setU64(EXTENT, dim(matrix, 1));
      block.setU64(EXTENT + 8, dim(matrix, 0));
      block.setU64(STRIDES, 2 * matrix.rowStride);
      view.setUint32(BOX + 4, tileRows, true);
      gpu.call(
        "cuTensorMapEncodeTiled",
        map,
        CU_TENSOR_MAP_DATA_TYPE_BFLOAT16,
        2,
        matrix.address,
        address + EXTENT,
        address + STRIDES,
        address + BOX,
        address + ELEMENT_STRIDES,
        CU_TENSOR_MAP_INTERLEAVE_NONE,
        CU_TENSOR_MAP_SWIZZLE_128B,
        CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
        CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE,
      );
      return map;
    },
    close: () => block.free(),
  };
}
