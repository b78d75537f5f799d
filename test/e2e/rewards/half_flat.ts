/** Gives every completion of half of the prompts, chosen by text length, the same reward: groups without signal. */
export default ({ prompts, completion_ids }: { prompts: string[]; completion_ids: number[][] }): number[] =>
  completion_ids.map((ids, i) => {
    const length = JSON.stringify(prompts[i]).length;
    if (length % 2 === 0) return length % 4 === 0 ? 1 : 0;
    return ids.reduce((sum, id) => sum + id, 0) % 97;
  });
