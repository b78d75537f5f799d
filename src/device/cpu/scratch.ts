/** Sizes of the kernels' layouts and scratch memory, as reported by the kernels. */
import type { CpuLibrary } from "../../../ffi/bindings/cpu.ts";
import { elementCount } from "../../tensor/tensor.ts";
import type { Device, ScratchSizes } from "../device.ts";
import { typeCode } from "./operands.ts";

type Sizes = Pick<
  Device,
  "rowBlock" | "parameterElements" | "pageElements" | "attentionScratchElements" | "scratchBytes"
>;

export function kernelSizes({ sizes: kernels }: Pick<CpuLibrary, "sizes">, threads: number): Sizes {
  const argumentsOf = ({
    vocabSize,
    hiddenSize,
    intermediateSize,
    attention,
    longest,
    tokens,
    dtype,
  }: ScratchSizes) => {
    const { heads, kvHeads, headDim } = attention;
    const type = typeCode({ dtype });
    return [vocabSize, hiddenSize, intermediateSize, heads, kvHeads, headDim, longest, tokens, type] as const;
  };
  return {
    rowBlock: kernels.weight_elements(1, 1, typeCode({ dtype: "float32" })), // a panel, equally wide for all types
    parameterElements(shape, dtype) {
      const [n, k] = shape;
      return shape.length === 2 ? kernels.weight_elements(n!, k!, typeCode({ dtype })) : elementCount(shape);
    },
    pageElements: ({ kvHeads, headDim }) => ({
      keys: kernels.key_page_elements(kvHeads, headDim),
      values: kernels.value_page_elements(kvHeads, headDim),
    }),
    attentionScratchElements: ({ kvHeads, headDim }) => kernels.attention_scratch_elements(kvHeads, headDim),
    scratchBytes(...sizes) {
      const all = sizes.map(argumentsOf);
      const ofThread = Math.max(...all.map((each) => kernels.thread_scratch_bound(...each)));
      return threads * ofThread + Math.max(...all.map((each) => kernels.common_scratch_bound(...each)));
    },
  };
}
