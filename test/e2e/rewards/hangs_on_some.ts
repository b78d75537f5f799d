/** Never returns for completions whose ids add up to a multiple of three. */
export default ({ completion_ids }: { completion_ids: number[][] }) =>
  completion_ids.map((ids) => {
    while (ids.reduce((sum, id) => sum + id, 0) % 3 === 0);
    return ids.length % 2;
  });
