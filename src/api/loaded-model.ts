/**
 * A model that stays open: it is loaded and its memory planned once, then generates and scores as often as it is asked.
 * One call computes at a time; calls that come meanwhile wait their turn. `generate` and `score` of commands.ts, which load
 * for each call, plan for exactly what they are given; this plans for the longest that the settings allow.
 */
import { resolveModel } from "../checkpoint/hub.ts";
import { readModelConfig } from "../checkpoint/huggingface.ts";
import { createClosers } from "../closing.ts";
import { configFrom } from "../config/load.ts";
import { toSnake } from "../config/names.ts";
import { type ConfigInput, settingsOf } from "../config/schema.ts";
import { engineSettings } from "../config/settings/engine.ts";
import { InputError } from "../errors.ts";
import { maxMicroBatchTokens } from "../model/micro-batches.ts";
import { onDevice, openRunDevice } from "../run/device.ts";
import { loadModelTokenizer } from "../session/model-tokenizer.ts";
import { planPolicy, planSampling, planScoring } from "../session/policy.ts";
import { planSession } from "../session/session.ts";
import type { SessionPlan } from "../session/tenant.ts";
import { readChatTemplate, type Tokenizer } from "../tokenizer/tokenizer.ts";
import { bundledModel } from "./bundled.ts";
import { type Hooks, unlessStopped } from "./control.ts";
import { withFields } from "./fields.ts";
import { complete, encoded, type Generated, type Prompt, promptsOf, type TokenEvent } from "./generate.ts";
import { type Running, running } from "./running.ts";
import { numbered, scoreOn, sizes, type TokenGroup, type TokenScores } from "./score.ts";

/** The settings of `generate`, without what is of a single call or of files. */
export type LoadModelSettings = Omit<ConfigInput<"generate">, "prompt" | "input" | "output" | "overwrite" | "debug">;

type LoadOnly =
  | "model"
  | "modelRevision"
  | "device"
  | "dtype"
  | "threads"
  | "maxModelLength"
  | "maxConcurrentSequences"
  | "chatTemplate";

/** What a call of `generate` may set: its prompts, and the sampling, over what the model was loaded with. */
export type CallSettings = Omit<LoadModelSettings, LoadOnly> & {
  /** One user's turn. */
  readonly prompt?: string | undefined;
  /** Conversations go through the chat template, texts are taken as they stand. */
  readonly prompts?: readonly Prompt[] | undefined;
};

export interface LoadedModel extends AsyncDisposable, Disposable {
  /** Its folder. */
  readonly folder: string;
  readonly tokenizer: Tokenizer;
  /** Tokens that prompt and completion may have together. */
  readonly maxModelLength: number;
  /**
   * Completes a user's turn, or what the settings say; greedily unless they say otherwise. Iterated, it gives the tokens as
   * they are sampled; a loop that is left stops the sampling.
   *
   * @throws InputError for settings or prompts that cannot be used, and the signal's reason once that is aborted
   */
  generate(what: string | CallSettings, hooks?: Pick<Hooks, "signal">): Running<Generated[], TokenEvent>;
  /** Log-probabilities and entropies of completions, as the function `score` gives them. */
  score(
    groups: readonly TokenGroup[],
    settings?: { readonly temperature?: number | undefined },
    hooks?: Pick<Hooks, "signal">,
  ): Promise<TokenScores[][]>;
  /** Stops what runs, then gives the memory back. `using` and `await using` call it. */
  close(): Promise<void>;
}

/** Prompt and completion together, where neither settings nor model say less. */
const DEFAULT_LENGTH = 4096;
/** A few at a time: each takes cache for the longest completion. The prompt comes with each call. */
const loadDefaults = { maxConcurrentSequences: 8, prompt: "" } as const;
/** Longest prompts in the cache at once; shorter ones leave room for more. */
const PROMPT_ROOM = 2;

const loadOnly = [
  ...Object.keys(engineSettings),
  "max_model_length",
  "max_concurrent_sequences",
  "chat_template",
].filter((key) => key !== "seed");

/** @throws InputError for a model or settings that cannot be used, or too little memory */
export async function loadModelWith(settings: LoadModelSettings, note: (text: string) => void): Promise<LoadedModel> {
  const { config, warnings } = configFrom("generate", settings, { defaults: loadDefaults });
  for (const warning of warnings) note(`note: ${warning}`);
  const folder = await resolveModel(config.model ?? bundledModel(), { revision: config.modelRevision, note });
  const { maxPositionEmbeddings: context, vocabSize } = readModelConfig(folder);
  if (config.maxModelLength !== null && config.maxModelLength > context)
    throw new InputError(
      `max_model_length ${config.maxModelLength}: the model's context is ${context} tokens; lower it`,
    );
  const length = config.maxModelLength ?? Math.min(context, DEFAULT_LENGTH);
  const maxCompletion = Math.min(config.maxCompletionLength, length - 1);
  const tokenizer = loadModelTokenizer(folder, readChatTemplate(config.chatTemplate));
  const opened = createClosers();
  try {
    const device = opened.add(await openRunDevice(config, note));
    const { maxConcurrentSequences: maxSequences, dtype } = config;
    const { microBatchTokens } = onDevice({ microBatchTokens: null }, device);
    const tenants = (plan: SessionPlan) => {
      const policy = planPolicy(plan, plan.folder(folder), { dtype, positions: length, fourBit: config.loadIn4bit });
      const promptRoom = Math.min(maxSequences, PROMPT_ROOM);
      const longestPrompt = length - 1;
      const tokens = maxMicroBatchTokens({ budget: microBatchTokens, longestPrompt, longestCompletion: 1 });
      return {
        // A call may set a penalty.
        rollout: planSampling(plan, policy, {
          maxSequences,
          promptRoom,
          longestPrompt,
          maxCompletion,
          penalized: true,
        }),
        scorer: planScoring(plan, policy, { tokens, longestPrompt }),
      };
    };
    const planned = opened.add(planSession(device, tenants, note));
    const session = opened.add(await planned.open());
    return openModel({
      folder,
      tokenizer,
      length,
      maxCompletion,
      vocabSize,
      microBatchTokens,
      settings,
      session,
      opened,
    });
  } catch (error) {
    opened.abandon();
    throw error;
  }
}

interface Open {
  readonly folder: string;
  readonly tokenizer: Tokenizer;
  readonly length: number;
  readonly maxCompletion: number;
  readonly vocabSize: number;
  readonly microBatchTokens: number;
  readonly settings: LoadModelSettings;
  readonly session: {
    readonly rollout: Parameters<typeof complete>[0];
    readonly scorer: Parameters<typeof scoreOn>[0];
  };
  readonly opened: { close(): void };
}

function openModel({
  folder,
  tokenizer,
  length,
  maxCompletion,
  settings,
  session,
  opened,
  ...sizesOf
}: Open): LoadedModel {
  let closing: Promise<void> | null = null;
  let last: Promise<unknown> = Promise.resolve();
  const inTurn = <R>(work: () => Promise<R>): Promise<R> => {
    const mine = last.then(() => {
      if (closing !== null) throw new Error(`${folder}: the model is closed`);
      return work();
    });
    last = mine.catch(() => {});
    return mine;
  };
  const cure = `the model was loaded for ${length}: load it with a higher maxModelLength`;

  const generateNow = async (
    { prompts, ...call }: CallSettings,
    control: { stopRequested: () => boolean; onToken: (token: TokenEvent) => void },
  ): Promise<Generated[] | null> => {
    if (prompts === undefined ? call.prompt === undefined : prompts.length === 0)
      throw new InputError("prompts: there are none to complete; give prompt or prompts");
    if (prompts !== undefined && call.prompt !== undefined)
      throw new InputError("prompt and prompts: use only one of them");
    for (const key of Object.keys(call))
      if (loadOnly.includes(toSnake(key)) || !Object.hasOwn(settingsOf("generate"), toSnake(key)))
        throw new InputError(
          loadOnly.includes(toSnake(key))
            ? `${key}: is set when the model is loaded; give it to loadModel`
            : `${key}: unknown setting of generate`,
        );
    const { config } = configFrom("generate", { ...settings, ...call }, { defaults: loadDefaults });
    if (call.maxCompletionLength !== undefined && config.maxCompletionLength > maxCompletion)
      throw new InputError(
        `maxCompletionLength ${config.maxCompletionLength}: the model was loaded for completions of ${maxCompletion} tokens; ` +
          "give loadModel the most that a call needs",
      );
    const placed = await promptsOf(config, prompts ?? null, tokenizer);
    const all = encoded(placed, config, tokenizer, { folder, room: length, cure });
    const room = length - all.reduce((longest, { ids }) => Math.max(longest, ids.length), 0);
    const maxCompletionLength = Math.min(config.maxCompletionLength, maxCompletion, room);
    return complete(session.rollout, { ...config, maxCompletionLength }, tokenizer, all, control);
  };

  const close = (): Promise<void> => {
    closing ??= last.then(() => opened.close());
    return closing;
  };
  return {
    ...{ folder, tokenizer, maxModelLength: length },
    generate(what, hooks = {}) {
      const call = typeof what === "string" ? { prompt: what } : what;
      return running(({ emit, left }) => {
        const stopRequested = () => left() || closing !== null || (hooks.signal?.aborted ?? false);
        return withFields("generate", () =>
          inTurn(async () => unlessStopped(await generateNow(call, { stopRequested, onToken: emit }), hooks)),
        );
      });
    },
    score(groups, { temperature = 1 } = {}, hooks = {}) {
      const { vocabSize, microBatchTokens } = sizesOf;
      return withFields("score", () =>
        inTurn(() => {
          const checked = numbered(groups, "groups", vocabSize);
          sizes("groups", checked, length, cure);
          if (!(temperature > 0 && temperature <= 100))
            throw new InputError(`temperature ${temperature}: must be a number > 0 and ≤ 100`);
          return scoreOn(session.scorer, folder, checked, { temperature, microBatchTokens }, hooks.signal);
        }),
      );
    },
    close,
    [Symbol.dispose]: () => void close(),
    [Symbol.asyncDispose]: close,
  };
}
