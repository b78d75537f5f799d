/** A reward that depends on the token ids alone and differs within a group, however bad the model is. */
export default ({ completion_ids }: { completion_ids: number[][] }) =>
  completion_ids.map((ids) => (ids.reduce((sum, id) => (sum * 31 + id) % 1009, 7) % 8) / 7);
