/** Arrow as a source: a file, or a folder as `datasets` saves it. Its columns are copied batch by batch as they are. */
import type { Data, Field } from "apache-arrow";
import { InputError } from "../../errors.ts";
import { checkSameColumn, type Dataset, openDataset } from "../dataset.ts";
import type { ArrayBatch, RowBatch, RowSource, SourceColumn } from "./source.ts";

const BATCH_ROWS = 1000;

export async function arrowSource(path: string, split?: string): Promise<RowSource> {
  const using = async <T>(read: (dataset: Dataset) => T): Promise<T> => {
    const dataset = openDataset(path, { split });
    try {
      return read(dataset);
    } finally {
      dataset.close();
    }
  };
  return {
    format: "Arrow",
    metadata: await using(({ shards }) => shards[0]!.metadata),
    columns: () => using((dataset) => new Map(dataset.columns.map(({ name }) => [name, columnOf(dataset, name)]))),
    async *batches(): AsyncGenerator<RowBatch> {
      const dataset = openDataset(path, { split });
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
    async *arrays(names): AsyncGenerator<ArrayBatch> {
      const dataset = openDataset(path, { split });
      try {
        for (const shard of dataset.shards) {
          const places = names.map((name) => shard.fields.findIndex((field) => field.name === name));
          for (let batch = 0; batch < shard.numBatches; batch++) {
            const { rows, columns } = shard.arrays(batch);
            yield { length: rows, columns: places.map((at) => columns[at] as Data) };
          }
        }
      } finally {
        dataset.close();
      }
    },
  };
}

function columnOf(dataset: Dataset, name: string): SourceColumn {
  const [first] = dataset.shards;
  const { unread } = dataset.columns.find((column) => column.name === name)!;
  const field = first!.fields.find((field) => field.name === name);
  const nullable = dataset.shards.some(({ fields }) => fields.find((other) => other.name === name)?.nullable);
  return {
    field() {
      if (unread !== undefined) throw new InputError(`${unread}, or leave it out with --columns`);
      checkSameColumn(dataset, name);
      return (field as Field).clone({ nullable });
    },
  };
}
