/** 1 if the columns of files.test.ts have the row's values, whatever their types; else 0. */
export default ({ completions, extra_info, level, big, score }: Record<string, readonly unknown[]>): number[] =>
  completions!.map((_, k) => {
    const { i } = extra_info![k] as { i: number };
    const [number, word] = [i % 2 === 1, i % 2 === 0];
    const fits =
      (number ? level![k] === i : level![k] === "hard") &&
      big![k] === 9007199254740993n &&
      (word ? Number.isNaN(score![k]) : score![k] === i / 4);
    return fits ? 1 : 0;
  });
