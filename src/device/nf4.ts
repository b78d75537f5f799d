/** What both devices share of weights in NF4: the parts of a buffer before the codes. */

import { type Nf4Scales, nf4Head } from "../tensor/nf4.ts";
import { tensor } from "../tensor/tensor.ts";
import type { Device, Weight } from "./device.ts";

/** Fills all of a weight in NF4 but its codes. */
export function loadScales(device: Pick<Device, "upload" | "nf4Layout">, w: Weight, scales: Nf4Scales): void {
  const head = nf4Head(scales, device.nf4Layout(w.shape));
  device.upload(tensor(w.name, w.address, "uint8", [head.length]), head);
}
