/** Arrow as a source: a file, or a folder as `datasets` saves it. Its columns are copied batch by batch unchanged. */
import type { Data, Field } from "apache-arrow";
import { InputError } from "../../errors.ts";
import { checkSameColumn, type Dataset, openDataset } from "../dataset.ts";
import type { ArrayBatch, ArraySource, SourceColumn } from "./rows.ts";

export async function arrowSource(path: string, split?: string): Promise<ArraySource> {
  const dataset = openDataset(path, { split });
  // What is kept of it is good after it is closed.
  const columns = new Map(dataset.columns.map((column) => [column.name, columnOf(dataset, column)]));
  const { metadata } = dataset.shards[0]!;
  dataset.close();
  return {
    format: "Arrow",
    metadata,
    columns: async () => columns,
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

function columnOf(dataset: Dataset, { name, unread }: Dataset["columns"][number]): SourceColumn {
  const [first] = dataset.shards;
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
