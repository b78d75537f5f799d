/** Rotary tables on the device: planned once for all layers with the same rotary embedding, and filled. */
import type { Device } from "../device/device.ts";
import type { ModelConfig } from "../families/config.ts";
import { layersOf } from "../families/parameters.ts";
import { type Rotary, ropeTable } from "../families/rope.ts";
import { type Bind, planBuffers } from "../tensor/buffers.ts";
import type { PlanBuilder } from "../tensor/plan.ts";
import type { Tensor } from "../tensor/tensor.ts";

export interface RopeTables {
  readonly cos: Tensor; // float32 (positions, Dh/2)
  readonly sin: Tensor; // float32 (positions, Dh/2)
}

function rotaryOf(config: ModelConfig, layer: number): Rotary {
  const { shape, rope } = config.layer(layer).attention;
  return { headDim: shape.headDim, rope };
}

/** Adds the tables to the plan; the returned function finds each layer's once they are allocated. */
export function planRopeTables(
  plan: PlanBuilder,
  config: ModelConfig,
  positions: number,
  prefix: string,
): Bind<RopeTables[]> {
  const kinds = layersOf(config).map((_, layer) => JSON.stringify(rotaryOf(config, layer)));
  const distinct = [...new Set(kinds)];
  const binds = distinct.map((kind, i) => {
    const { headDim } = rotaryOf(config, kinds.indexOf(kind));
    const number = i === 0 ? "" : ` ${i + 1}`;
    const place = { group: "rotary tables", prefix };
    return planBuffers(plan, place, {
      cos: [`rope cos${number}`, "float32", [positions, headDim / 2]],
      sin: [`rope sin${number}`, "float32", [positions, headDim / 2]],
    });
  });
  return (tensors) => {
    const tables = binds.map((bind) => bind(tensors));
    return kinds.map((kind) => tables[distinct.indexOf(kind)]!);
  };
}

/** @param rope each layer's tables */
export function fillRopeTables(device: Device, config: ModelConfig, rope: readonly RopeTables[]): void {
  for (const tables of new Set(rope)) {
    const positions = tables.cos.shape[0] ?? 0;
    const { cos, sin } = ropeTable(rotaryOf(config, rope.indexOf(tables)), positions);
    device.upload(tables.cos, cos);
    device.upload(tables.sin, sin);
  }
}
