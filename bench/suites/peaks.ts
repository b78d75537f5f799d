/** `bench peaks`: what this machine can do, which the shares of all other suites are of. */
import { more } from "../figures.ts";
import { withMeter } from "../open.ts";
import { reportOf, type Suite } from "./suite.ts";

export const peaks: Suite = {
  summary: "the machine's own limits: arithmetic and memory",
  usual: true,
  takes: ["device", "threads", "path"],
  run: (flags, line) =>
    withMeter(flags, async (meter) => {
      const { compute, products, memory } = await meter.peak();
      const figures = [
        more("arithmetic, float32", compute, "GFLOP/s"),
        ...(products === undefined ? [] : [more("products with bfloat16 weights", products, "GFLOP/s")]),
        more(meter.shared ? "reading memory" : "copying within memory, both ways", memory, "GB/s"),
      ];
      return reportOf("peaks", meter.device, null, figures, line);
    }),
};
