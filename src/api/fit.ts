/**
 * Searches for the settings that fill a given memory best. What is searched is a list of measures, each with what it costs;
 * one that saves memory in another way (adapters in place of all weights, smaller optimizer states) is one more entry of it.
 */
import { toCamel } from "../config/names.ts";
import type { TrainConfig } from "../config/schema.ts";
import { planAgain, type TrainingSetup } from "../grpo/setup.ts";
import { estimateMemory } from "../session/memory.ts";

type Changes = Partial<TrainConfig>;

export interface Measure {
  /** The setting in snake_case. Given explicitly, it is left alone. */
  readonly key: string;
  /** What less of it costs. */
  readonly cost: string;
  /** Measures of a lower tier are used up before those of a higher one. */
  readonly tier: number;
  /** The next value that takes less memory; null: there is none. */
  less(config: TrainConfig, limits: Limits): Changes | null;
  /** The next value that makes use of more memory; null: more is of no use. */
  more(config: TrainConfig, limits: Limits): Changes | null;
}

/** What a value can usefully be. */
interface Limits {
  /** Completions sampled at once. */
  readonly completions: number;
  /** Tokens of a longest prompt with a longest completion. */
  readonly row: number;
  /** What the device takes by itself. */
  readonly microBatchTokens: number;
  /** The host's memory is another than the device's. */
  readonly hasHostMemory: boolean;
}

/** Below this a pass is too small to use the cores of a machine. */
const LEAST_SEQUENCES = 4;
/** Beyond this many times the device's own, larger passes save no time. */
const MOST_TOKENS = 4;

export const measures: readonly Measure[] = [
  {
    key: "max_concurrent_sequences",
    cost: "slower sampling; the same results",
    tier: 0,
    less({ maxConcurrentSequences: now }, { completions }) {
      const next = Math.floor(Math.min(now, completions) / 2);
      return next < LEAST_SEQUENCES ? null : { maxConcurrentSequences: next };
    },
    more({ maxConcurrentSequences: now }, { completions }) {
      return now >= completions ? null : { maxConcurrentSequences: Math.min(2 * now, completions) };
    },
  },
  {
    key: "micro_batch_tokens",
    cost: "a slower update; the same results up to rounding",
    tier: 0,
    less({ microBatchTokens }, limits) {
      const next = Math.floor((microBatchTokens ?? limits.microBatchTokens) / 2);
      // A micro-batch holds at least one row, whatever the setting.
      return next < Math.max(limits.row / 2, 16) ? null : { microBatchTokens: next };
    },
    more({ microBatchTokens }, limits) {
      const now = microBatchTokens ?? limits.microBatchTokens;
      const most = Math.min(MOST_TOKENS * limits.microBatchTokens, limits.completions * limits.row);
      return 2 * now > most ? null : { microBatchTokens: 2 * now };
    },
  },
  {
    key: "gradient_checkpointing",
    cost: "activations are computed twice, a third more time in the update; the same results",
    tier: 0,
    // The search starts from recomputing everything, which takes the least.
    less: () => null,
    more: ({ gradientCheckpointing }) => (gradientCheckpointing === false ? null : { gradientCheckpointing: false }),
  },
  {
    key: "offload_optimizer",
    cost: "a step waits for copies between GPU and host, 24 bytes a parameter; the same results",
    tier: 0,
    less: ({ offloadOptimizer }, { hasHostMemory }) =>
      hasHostMemory && !offloadOptimizer ? { offloadOptimizer: true } : null,
    more: () => null,
  },
  {
    key: "dtype",
    cost: "coarser weights and activations: other results",
    tier: 1,
    less: ({ dtype }, _) => (dtype === "bfloat16" ? null : { dtype: "bfloat16" }),
    more: () => null,
  },
  {
    key: "optim",
    cost: "moments in 8 bits: slightly other results",
    tier: 1,
    less: ({ optim }) => (optim === "adamw_8bit" ? null : { optim: "adamw_8bit" }),
    more: () => null,
  },
  {
    key: "use_peft",
    cost: "adapters are trained in place of the weights, at about ten times the learning_rate: other results",
    tier: 2,
    // What a reference follows or a model replaces is not the policy without adapters.
    less: ({ usePeft, syncRefModel }) => (usePeft || syncRefModel ? null : { usePeft: true }),
    more: () => null,
  },
  {
    key: "load_in_4bit",
    cost: "frozen weights in 4 bits: other results",
    tier: 2,
    less: ({ usePeft, loadIn4bit }) => (usePeft && !loadIn4bit ? { loadIn4bit: true } : null),
    more: () => null,
  },
];

/** The last tier: what changes results most is tried last. */
const LAST_TIER = Math.max(...measures.map(({ tier }) => tier));

export interface Fitted {
  readonly fits: boolean;
  readonly peakBytes: number;
  /** Settings that differ from those given or by default, in the order of the measures. */
  readonly changes: readonly { readonly key: string; readonly value: unknown; readonly cost: string | null }[];
}

/** The memory to fill. */
export interface FitMemory {
  readonly bytes: number;
  /** It is the memory of a GPU, which holds the plan but not the program. */
  readonly onGpu: boolean;
  /** The GPU's name; null: none, or any. */
  readonly gpu?: string | null;
  /** What is free on this device: `auto` looks at the same when the run starts. */
  readonly isOwn?: boolean;
}

/** How a search goes on: the settings so far, and the memory that they take. */
interface State {
  readonly config: TrainConfig;
  readonly peakBytes: number;
}

/**
 * @param setup of the run as its settings are
 * @param given keys in snake_case that the user set
 */
export async function fitSettings(
  setup: TrainingSetup,
  config: TrainConfig,
  given: ReadonlySet<string>,
  { bytes, onGpu, gpu = null, isOwn = false }: FitMemory,
  table: readonly Measure[] = measures,
): Promise<Fitted> {
  const { generationCompletions: completions } = setup.batch;
  const row = setup.longestPrompt + config.maxCompletionLength;
  const { microBatchTokens, staging } = setup.device;
  const limits: Limits = { completions, row, microBatchTokens, hasHostMemory: staging !== null };
  const own = table.filter(({ key }) => !given.has(key));
  const peakOf = async (candidate: TrainConfig): Promise<number> => {
    const planned = await planAgain(setup, candidate);
    planned.close();
    const { plan, scratchBytes } = planned.memory;
    // The program's own memory as it was at first: what the search itself takes is no part of a run.
    const { programBytes } = setup.planned.memory;
    return onGpu ? estimateMemory(plan, scratchBytes, true).peakBytes : plan.totalBytes + scratchBytes + programBytes;
  };
  const withChanges = async (from: State, changes: Changes): Promise<State> => {
    const next = { ...from.config, ...changes };
    return { config: next, peakBytes: await peakOf(next) };
  };
  const least: Changes = given.has("gradient_checkpointing") ? {} : { gradientCheckpointing: true };
  let state = await withChanges({ config, peakBytes: 0 }, least);
  for (let tier = 0; state.peakBytes > bytes && tier <= LAST_TIER; tier++) {
    const usable = own.filter((measure) => measure.tier <= tier);
    for (let smaller = await reduced(state, usable, limits, withChanges); smaller; ) {
      state = smaller;
      smaller = state.peakBytes > bytes ? await reduced(state, usable, limits, withChanges) : null;
    }
  }
  const fits = state.peakBytes <= bytes;
  if (fits)
    for (const measure of own)
      for (let changes = measure.more(state.config, limits); changes; changes = measure.more(state.config, limits)) {
        const next = await withChanges(state, changes);
        if (next.peakBytes > bytes) break;
        state = next;
      }
  return {
    fits,
    peakBytes: state.peakBytes,
    changes: changesOf(config, state.config, own, limits, isOwn || gpu !== null),
  };
}

/** A step towards less memory: by the first measure that saves any, else by all of them together; null: none is left. */
async function reduced(
  state: State,
  usable: readonly Measure[],
  limits: Limits,
  withChanges: (from: State, changes: Changes) => Promise<State>,
): Promise<State | null> {
  const steps = usable.flatMap((measure) => measure.less(state.config, limits) ?? []);
  // Phases share their memory: less of one saves nothing while another needs as much.
  for (const changes of steps.length > 1 ? [...steps, Object.assign({}, ...steps) as Changes] : steps) {
    const next = await withChanges(state, changes);
    if (next.peakBytes < state.peakBytes) return next;
  }
  return null;
}

/** Settings that are not numbers and take less memory once they are changed. */
const coarser: ReadonlySet<string> = new Set(["offload_optimizer", "dtype", "optim", "use_peft", "load_in_4bit"]);

/** @param adapts the run will see this memory, so that `auto` keeps what there is room for, perhaps nothing */
function changesOf(
  before: TrainConfig,
  after: TrainConfig,
  own: readonly Measure[],
  limits: Limits,
  adapts: boolean,
): Fitted["changes"] {
  return own.flatMap(({ key, cost }) => {
    const name = toCamel(key) as keyof TrainConfig;
    const was = name === "microBatchTokens" ? (before[name] ?? limits.microBatchTokens) : before[name];
    const value = after[name];
    const recomputes = key === "gradient_checkpointing" && value === true;
    if (value === was || value === null || (recomputes && adapts)) return [];
    const isLess = typeof value === "number" && typeof was === "number" ? value < was : recomputes || coarser.has(key);
    return [{ key, value, cost: isLess ? cost : null }];
  });
}
