/** An evaluation wired together from its settings: model, problems, judges, session, and the two files of its folder. */
import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import type { Extraction } from "../answers/verify.ts";
import { evaluationFiles, type Held } from "../checkpoint/held.ts";
import { resolveModel } from "../checkpoint/hub.ts";
import { readModelConfig } from "../checkpoint/huggingface.ts";
import { openOutputFolder } from "../checkpoint/output-folder.ts";
import { writeTogether } from "../checkpoint/together.ts";
import type { Loaded } from "../config/load.ts";
import type { EvalConfig } from "../config/schema.ts";
import { InputError } from "../errors.ts";
import { type Evaluation, evaluateProblems, evaluationProblems } from "../eval/accuracy.ts";
import { type AtK, atEachK, chosenKs, evaluationResults } from "../eval/report.ts";
import type { OwnFunctions } from "../grpo/own-functions.ts";
import { rewardSources, scoreAnswers } from "../grpo/reward-sources.ts";
import { rewardModels } from "../grpo/setup.ts";
import { createRewardPool, noTraining, type RewardPool } from "../rewards/pool/pool.ts";
import { needsGold, parseRewardSpec, type RewardSpec } from "../rewards/specs.ts";
import { onDevice, withTeamDevice } from "../run/device.ts";
import { openDatasetProblems, type ProblemSource } from "../run/prompts.ts";
import { rolloutLimits } from "../run/rollout-limits.ts";
import { loadModelTokenizer } from "../session/model-tokenizer.ts";
import { planPolicy, planSampling } from "../session/policy.ts";
import { planRewardModels } from "../session/reward-model.ts";
import { planSession, withSession } from "../session/session.ts";
import type { SessionPlan } from "../session/tenant.ts";
import { readChatTemplate, type Tokenizer } from "../tokenizer/tokenizer.ts";
import { bundledEvalProblems, bundledModel } from "./bundled.ts";
import type { Control } from "./control.ts";
import { comparable, onRank, type Placed, poolSize, requireRoom, requireSame, withRanks } from "./ranks.ts";

/** Every problem with its answers, and what they come to; shares are from 0 to 1. */
export interface EvaluationResult extends Evaluation {
  /** The model's folder. */
  readonly model: string;
  readonly dataset: string;
  /** The k of `atK`: `passAtK`, else the powers of two up to the number of answers. */
  readonly ks: readonly number[];
  /** pass@k and maj@k by how answers are found; empty if no problem has a gold answer. */
  readonly atK: Readonly<Record<Extraction, readonly AtK[]>>;
}

/** What an evaluation reads. */
interface Inputs {
  readonly model: string;
  readonly dataset: string;
}

export interface EvaluateControl extends Control {
  /** Reward functions that are given as values. */
  readonly rewards?: OwnFunctions["rewards"] | undefined;
}

/** @param writes the files of `output_dir`; false: nothing is written, and what is there does not matter */
export async function evaluateWith(
  loaded: Loaded<"eval">,
  control: EvaluateControl,
  writes: boolean,
): Promise<EvaluationResult | null> {
  return withRanks(loaded.config, control, false, (team, own) =>
    evaluateAmong(team, { ...loaded, config: onRank(loaded.config, team) }, own, writes && team.ranks.rank === 0),
  );
}

async function evaluateAmong(
  team: Placed,
  { config, warnings, given }: Loaded<"eval">,
  control: EvaluateControl,
  writes: boolean,
): Promise<EvaluationResult | null> {
  const { note } = control.console;
  for (const warning of warnings) note(`note: ${warning}`);
  const output = writes ? openOutputFolder({ folder: config.outputDir, command: "eval", note }) : null;
  try {
    if (config.numGenerations > 1 && config.temperature === 0)
      throw new InputError("num_generations above 1 needs a temperature above 0: greedy answers are all the same");
    const ks = chosenKs(config.passAtK, config.numGenerations);
    const inputs = { model: config.model ?? bundledModel(), dataset: config.dataset ?? bundledEvalProblems() };
    const bundled = config.model === null && config.dataset === null;
    output?.permit({
      overwrite: config.overwrite,
      resumes: false,
      inputs: { ...inputs },
      addsOnly: true,
      mayReplace: bundled && !given.has("output_dir") ? isBundledEvaluation : undefined,
    });
    const folder = await resolveModel(inputs.model, { revision: config.modelRevision, note });
    const evaluation = await evaluateFolder(folder, inputs.dataset, config, team, control);
    if (!evaluation) return null;
    for (const warning of evaluation.warnings) note(warning);
    if (writes) await write(config, { model: folder, dataset: inputs.dataset }, evaluation, ks);
    const atK = { lenient: atEachK(evaluation, ks, "lenient"), strict: atEachK(evaluation, ks, "strict") };
    return { ...evaluation, ...inputs, model: folder, ks, atK };
  } finally {
    output?.release();
  }
}

/** Answers and judges the problems; null: it was stopped. */
async function evaluateFolder(
  folder: string,
  dataset: string,
  config: EvalConfig,
  team: Placed,
  control: EvaluateControl,
): Promise<Evaluation | null> {
  const context = readModelConfig(folder).maxPositionEmbeddings;
  const tokenizer = loadModelTokenizer(folder, readChatTemplate(config.chatTemplate));
  const source = await openDatasetProblems(tokenizer, dataset, config, control.console.note);
  for (const remark of source.remarks) control.console.note(`note: ${remark}`);
  const functions = (config.rewardFuncs ?? []).map(parseRewardSpec);
  const pool = createRewardPool({
    functions,
    inline: control.rewards,
    weights: config.rewardWeights ?? undefined,
    parameters: config,
    timeoutMs: config.rewardTimeout * 1000,
    size: poolSize(team),
  });
  try {
    await pool.ready();
    return await answerAndJudge({ folder, context, tokenizer, source, functions, pool }, config, team, control);
  } finally {
    source.close();
    await pool.close();
  }
}

interface Judged {
  readonly folder: string;
  /** Positions of the model. */
  readonly context: number;
  readonly tokenizer: Tokenizer;
  readonly source: ProblemSource;
  readonly functions: readonly RewardSpec[];
  readonly pool: RewardPool;
}

async function answerAndJudge(
  { folder, context, tokenizer, source, functions, pool }: Judged,
  config: EvalConfig,
  { ranks, localRank }: Placed,
  { console, onBegin }: Control,
): Promise<Evaluation | null> {
  // The context is the limit where it is shorter: a longest prompt and the tokens that it leaves.
  const longest = source.longestPrompt();
  const room = Math.max(1, context - Math.min(longest, context - 1));
  const maxCompletionLength = Math.min(config.maxCompletionLength, Math.max(room, Math.floor(context / 2)));
  if (maxCompletionLength < config.maxCompletionLength)
    console.note(`note: answers have at most ${maxCompletionLength} tokens: the model's context is ${context}`);
  const longestPrompt = Math.min(longest, context - maxCompletionLength);
  const cure = functions.every(needsGold)
    ? "name the column with --answer_column, or judge otherwise with --reward_funcs"
    : null;
  const problems = evaluationProblems(source, config.evalSamples, longestPrompt, cure);
  const { dtype, numGenerations: samples } = config;
  const completions = Math.ceil(problems.problems.length / ranks.size) * samples;
  const positions = longestPrompt + maxCompletionLength;
  const limits = rolloutLimits({
    maxConcurrentSequences: config.maxConcurrentSequences,
    completions,
    samples,
    evaluates: true,
    longestPrompt,
    maxCompletion: maxCompletionLength,
    repetitionPenalty: config.repetitionPenalty,
  });
  return withTeamDevice(config, { ranks, localRank, division: null }, console.note, async (device) => {
    const scorers = await rewardModels(onDevice(config, device), positions, completions, console.note);
    const tenants = (plan: SessionPlan) => {
      const policy = planPolicy(plan, plan.folder(folder), { dtype, positions, fourBit: config.loadIn4bit });
      return {
        rollout: planSampling(plan, policy, limits),
        rewardModels: planRewardModels(plan, scorers, { dtype, duringRollout: false }),
      };
    };
    const planned = planSession(device, tenants, console.note);
    await requireSame(ranks, () => ({
      ...comparable(config),
      ...{ problems: problems.problems.length, "longest prompt": longestPrompt, processor: device.numericsKey },
    }));
    await requireRoom(ranks, planned.memory, device);
    return withSession(planned, (session) => {
      const sources = functions.length > 0 ? rewardSources(session.rewardModels, pool, config.systemPrompt) : null;
      onBegin?.();
      const settings = { ...config, samples, maxCompletionLength };
      return evaluateProblems(session.rollout, tokenizer, pool, problems, settings, {
        onProgress: (done, total) => console.progress({ step: 0, steps: 0, phase: "evaluation", done, total }),
        ranks,
        score: sources && scoreAnswers(sources, noTraining, tokenizer),
      });
    });
  });
}

/** `answers.jsonl` and `results.json`, in one step. */
async function write(config: EvalConfig, inputs: Inputs, evaluation: Evaluation, ks: readonly number[]) {
  const { benchmark, rewardFuncs, rewardWeights } = config;
  const results = {
    ...inputs,
    ...(benchmark === null ? {} : { benchmark }),
    ...(rewardFuncs && { reward_funcs: rewardFuncs, reward_weights: rewardWeights ?? rewardFuncs.map(() => 1) }),
    ...evaluationResults(evaluation, ks),
  };
  await writeTogether(config.outputDir, (temporary) => {
    writeFileSync(join(temporary, "answers.jsonl"), answerLines(evaluation));
    writeFileSync(join(temporary, "results.json"), `${JSON.stringify(results, null, 2)}\n`);
  });
}

/** `answers.jsonl`: one line per answer. */
function answerLines({ problems }: Evaluation): string {
  return problems
    .flatMap(({ problem, gold, answers }) =>
      answers.map(({ text, completion, correct, strict, reason, answer, strictAnswer, ...scored }, sample) =>
        JSON.stringify({
          row: problem.row,
          sample,
          prompt: problem.example.prompt,
          completion: text,
          ...(gold === null ? {} : { gold, answer, strict_answer: strictAnswer, reason, correct, strict }),
          ...scored,
          tokens: completion.completionIds.length,
          finished: completion.finished,
          ...(completion.stop === undefined ? {} : { stop: completion.stop }),
        }),
      ),
    )
    .map((line) => `${line}\n`)
    .join("");
}

/** Whether the folder holds nothing but an evaluation of the bundled model, which takes a moment to make again. */
function isBundledEvaluation(folder: string, held: Held): boolean {
  const onlyEvaluation = held.names.every((name) => evaluationFiles.includes(name));
  try {
    const results = JSON.parse(readFileSync(join(folder, "results.json"), "utf8")) as Record<string, unknown>;
    return onlyEvaluation && results.model === bundledModel() && results.dataset === bundledEvalProblems();
  } catch {
    return false;
  }
}
