/** Arrow as a source: a file, or a folder as `datasets` saves it. */
import { typeOfArrow } from "../arrow/types.ts";
import { openDataset } from "../dataset.ts";
import { schemaColumn } from "./infer.ts";
import type { RowBatch, RowSource } from "./source.ts";

const BATCH_ROWS = 1000;

export function arrowSource(path: string, split?: string): RowSource {
  const open = () => openDataset(path, { split });
  return {
    format: "Arrow",
    async columns() {
      const dataset = open();
      try {
        const { fields } = dataset.shards[0]!;
        return new Map(fields.map(({ name, type }) => schemaColumn(path, name, () => typeOfArrow(type))));
      } finally {
        dataset.close();
      }
    },
    async *batches(): AsyncGenerator<RowBatch> {
      const dataset = open();
      try {
        for (let first = 0; first < dataset.numRows; first += BATCH_ROWS) {
          const length = Math.min(BATCH_ROWS, dataset.numRows - first);
          const rows = Array.from({ length }, (_, i) => dataset.row(first + i));
          yield { rows, place: (i) => `row ${first + i}` };
        }
      } finally {
        dataset.close();
      }
    },
  };
}
