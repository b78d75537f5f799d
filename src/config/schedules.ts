/**
 * The learning-rate schedules by Hugging Face's names, and what each takes of `lr_scheduler_kwargs`, under Hugging Face's
 * names and with its defaults. What they compute is src/optim/schedule.ts. Left out are `reduce_lr_on_plateau` and
 * `greedy`, which follow an evaluation and not the step.
 */
import { z } from "zod";
import { InputError } from "../errors.ts";

const rate = z.number().min(0);
const shape = z.enum(["linear", "cosine", "1-sqrt"]);
const floor = {
  min_lr: rate.optional(),
  min_lr_rate: rate.max(1).optional(),
  num_cycles: z.number().gt(0).default(0.5),
};

const kwargs = {
  constant: z.strictObject({}),
  constant_with_warmup: z.strictObject({}),
  linear: z.strictObject({}),
  cosine: z.strictObject({ num_cycles: z.number().gt(0).default(0.5) }),
  cosine_with_restarts: z.strictObject({ num_cycles: z.int().min(1).default(1) }),
  polynomial: z.strictObject({ lr_end: rate.default(1e-7), power: z.number().gt(0).default(1) }),
  inverse_sqrt: z.strictObject({ timescale: z.number().gt(0).optional() }),
  cosine_with_min_lr: z.strictObject(floor),
  cosine_warmup_with_min_lr: z.strictObject({ ...floor, warmup_lr_rate: rate.max(1).optional() }),
  warmup_stable_decay: z.strictObject({
    num_decay_steps: z.int().min(0),
    num_stable_steps: z.int().min(0).optional(),
    warmup_type: shape.default("linear"),
    decay_type: shape.default("cosine"),
    min_lr_ratio: rate.max(1).default(0),
    num_cycles: z.number().gt(0).default(0.5),
  }),
} as const;

export type ScheduleName = keyof typeof kwargs;
export const scheduleNames = Object.keys(kwargs) as [ScheduleName, ...ScheduleName[]];

/** A schedule with its parameters complete. */
export type ScheduleShape = { [N in ScheduleName]: { readonly type: N } & z.output<(typeof kwargs)[N]> }[ScheduleName];

/**
 * @param given `lr_scheduler_kwargs`
 * @param base the peak learning rate: a floor given as a rate, and polynomial's end, must lie under it
 * @throws InputError naming the key, for what the schedule does not take, and where its floor is missing or twice there
 */
export function scheduleShape(
  type: ScheduleName,
  given: Readonly<Record<string, unknown>>,
  base: number,
): ScheduleShape {
  const parsed = kwargs[type].safeParse(given);
  if (!parsed.success) {
    const { path, code } = parsed.error.issues[0]!;
    const key = path.join(".");
    const allowed = Object.keys(kwargs[type].shape);
    const takes = allowed.length === 0 ? "none" : allowed.join(", ");
    throw new InputError(
      code === "unrecognized_keys" || key === ""
        ? `lr_scheduler_kwargs ${JSON.stringify(given)}: lr_scheduler_type ${type} takes ${takes}`
        : given[key] === undefined
          ? `lr_scheduler_kwargs: lr_scheduler_type ${type} needs ${key}; set {"${key}": N}`
          : `lr_scheduler_kwargs ${key} ${JSON.stringify(given[key])}: ${parsed.error.issues[0]!.message}`,
    );
  }
  const found = { type, ...parsed.data } as ScheduleShape;
  if (found.type === "cosine_with_min_lr" || found.type === "cosine_warmup_with_min_lr") {
    const floors = [found.min_lr, found.min_lr_rate].filter((value) => value !== undefined);
    if (floors.length !== 1)
      throw new InputError(
        `lr_scheduler_kwargs: lr_scheduler_type ${type} needs ${floors.length === 0 ? "one" : "only one"} of min_lr and min_lr_rate`,
      );
  }
  if (found.type === "polynomial" && found.lr_end >= base && base > 0)
    throw new InputError(
      `lr_scheduler_kwargs lr_end ${found.lr_end}: it must be less than the learning rate ${base}; lower it`,
    );
  return found;
}
