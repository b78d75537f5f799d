/**
 * Is the gradient right? A small model of the measured one's family, with numbers that the host knows: logprobs and entropies
 * against float64, and elements of every parameter's gradient against difference quotients of the float64 model.
 */
import type { Device } from "../src/device/device.ts";
import { RunError } from "../src/errors.ts";
import type { ModelConfig } from "../src/families/config.ts";
import { parseModelConfig } from "../src/families/families.ts";
import { parameterSpecs } from "../src/families/parameters.ts";
import { forwardBackward } from "../src/model/lm-head.ts";
import { cutMicroBatches } from "../src/model/micro-batches.ts";
import { fillRopeTables } from "../src/model/rope-tables.ts";
import { zeroGradients } from "../src/optim/adamw.ts";
import type { GradientCheckpointing } from "../src/session/gradient-checkpointing.ts";
import type { ComputeDType } from "../src/tensor/dtype.ts";
import { elementCount, tensor } from "../src/tensor/tensor.ts";
import { fillKnown } from "./model.ts";
import { randomFrom } from "./ops/random.ts";
import { openWorkspace } from "./ops/workspace.ts";
import { referenceScores } from "./reference-model.ts";
import { openModel } from "./roofline/phases.ts";

const small = {
  ...{ vocab_size: 96, hidden_size: 64, intermediate_size: 80, num_hidden_layers: 2 },
  ...{ num_attention_heads: 4, num_key_value_heads: 2, head_dim: 32, max_position_embeddings: 64 },
};
const [PROMPT, COMPLETION, SAMPLES] = [5, 6, 2];
/** Elements of each parameter whose gradient is compared. */
const ELEMENTS = 2;
const STEP = 1e-4;

/**
 * Rounding in float32, and of activations and gradients stored in bfloat16: of scores in nats, of gradients relative to the
 * element, or to `floor` if that is more. Elements are of the order of one.
 */
const allowed = {
  float32: { scores: 1e-4, gradient: 1e-3, floor: 0.05 },
  bfloat16: { scores: 0.05, gradient: 0.1, floor: 1 },
} as const;

/** The family's own parts (norms of heads, biases, tied or not), at sizes that float64 computes in a moment. */
export function smallModel({ raw }: Pick<ModelConfig, "raw">): ModelConfig {
  return parseModelConfig({ ...raw, ...small }, "a small model of the same family");
}

/**
 * Runs forward and backward of the small model on the device.
 *
 * @returns what was compared, in words
 * @throws RunError naming the parameter and the element if a value is wrong
 */
export async function checkGradient(
  device: Device,
  measured: ModelConfig,
  dtype: ComputeDType,
  checkpointing: GradientCheckpointing = true,
): Promise<string> {
  const config = smallModel(measured);
  const random = randomFrom("gradient check");
  const parameters = new Map(
    parameterSpecs(config).map(({ name, shape }) => {
      // Exact in bfloat16: multiples of 2⁻⁹ below a half, and of 2⁻⁷ beside one.
      const isNorm = shape.length === 1 && !name.endsWith("bias");
      const drawn = random.normal(elementCount(shape), isNorm || shape.length === 1 ? 0.1 : shape[1]! ** -0.5);
      const exact = (x: number) =>
        isNorm ? 1 + Math.round(x * 128) / 128 : Math.round(Math.max(-0.5, Math.min(0.498, x)) * 512) / 512;
      return [name, drawn.map(exact)] as const;
    }),
  );
  const ids = (count: number) => Array.from({ length: count }, () => random.integer(config.vocabSize));
  const prompt = ids(PROMPT);
  const completions = Array.from({ length: SAMPLES }, () => ids(COMPLETION));
  /** The loss's derivatives, by entry. */
  const slopes = { logprobs: random.normal(SAMPLES * COMPLETION), entropies: random.normal(SAMPLES * COMPLETION) };
  const loss = (given: typeof parameters) =>
    completions.reduce((sum, completion, c) => {
      const { logprobs, entropies } = referenceScores(config, given, prompt, completion);
      return (
        sum +
        logprobs.reduce((s, x, t) => s + x * slopes.logprobs[c * COMPLETION + t]!, 0) +
        entropies.reduce((s, x, t) => s + x * slopes.entropies[c * COMPLETION + t]!, 0)
      );
    }, 0);

  const shape = { groups: 1, samples: SAMPLES, promptTokens: PROMPT, completionTokens: COMPLETION, sequences: SAMPLES };
  const { model, activations, optimizer, arena } = openModel(
    device,
    config,
    { ...shape, microBatchTokens: 64 },
    dtype,
    checkpointing,
  );
  try {
    device.ops.fill(tensor("arena", arena.address, "float32", [Math.floor(arena.byteLength / 4)]), 0);
    fillRopeTables(device, config, model.rope);
    fillKnown(device, model.weights.all, (name) => parameters.get(name)!);
    zeroGradients(device, optimizer);
    const group = {
      promptIds: Int32Array.from(prompt),
      completions: completions.map((ids) => ({ completionIds: Int32Array.from(ids) })),
    };
    const [batch] = cutMicroBatches([group], 64);
    const derive = (entries: Int32Array) => ({
      dlogprobs: Float64Array.from(entries, (e) => slopes.logprobs[e]!),
      dentropies: Float64Array.from(entries, (e) => slopes.entropies[e]!),
    });
    const scores = await forwardBackward(model, batch!, activations, optimizer.gradients, derive, 1);
    const line = allowed[device.activationDType(dtype)];
    const where = `update on ${device.description}: wrong result`;
    for (const [c, completion] of completions.entries()) {
      const want = referenceScores(config, parameters, prompt, completion);
      for (const [t, logprob] of want.logprobs.entries()) {
        const got = scores.logprobs[c * COMPLETION + t]!;
        if (!(Math.abs(got - logprob) <= line.scores))
          throw new RunError(`${where}: logprob ${t} of completion ${c} is ${got}, wanted ${logprob}`);
        const entropy = scores.entropies[c * COMPLETION + t]!;
        if (!(Math.abs(entropy - want.entropies[t]!) <= line.scores))
          throw new RunError(`${where}: entropy ${t} of completion ${c} is ${entropy}, wanted ${want.entropies[t]}`);
      }
    }
    const workspace = openWorkspace(device);
    let compared = 0;
    for (const weight of model.weights.all) {
      const gradient = optimizer.gradients.get(weight.name);
      if (!gradient) continue;
      const width = elementCount(weight.shape.slice(1));
      const known = parameters.get(weight.name)!;
      const places = Array.from({ length: ELEMENTS }, () => random.integer(known.length));
      // A row of the embedding that no token asks for has no gradient, so one that has is among them.
      if (weight.name === config.embedding.name) places.push(prompt[0]! * width);
      for (const place of places) {
        const at = (x: number) => {
          const moved = known.slice();
          moved[place]! += x;
          return loss(new Map([...parameters, [weight.name, moved]]));
        };
        const want = (at(STEP) - at(-STEP)) / (2 * STEP);
        const row = workspace.parameterRow(gradient, weight, Math.floor(place / width));
        const got = row[place % width]!;
        const scale = Math.max(line.floor, Math.abs(want));
        compared++;
        if (!(Math.abs(got - want) <= line.gradient * scale))
          throw new RunError(`${where}: the gradient of ${weight.name}[${place}] is ${got}, wanted ${want}`);
      }
    }
    workspace.free();
    return `logprobs, entropies and ${compared} elements of all gradients of a small model against float64`;
  } finally {
    arena.free();
  }
}
