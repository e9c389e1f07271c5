/** SRMSNorm and LayerNorm on each backend, compared with a loop that reads the same bytes, and with a peer. */
import { presentBackends } from "./measure/backends.ts";
import { Baselines } from "./baselines/mod.ts";
import { ceilingCase, normCase, register } from "./measure/cases.ts";
import { onnxNormCase } from "./peers/onnxruntime.ts";

const ROWS = 16384, WIDTH = 1024;
const cases = [];
for (const backend of await presentBackends()) {
  cases.push(await normCase(backend, ROWS, WIDTH), await normCase(backend, ROWS, WIDTH, { affine: true }));
}
register("norm", [...cases, ceilingCase(new Baselines(), cases[0]), await onnxNormCase(ROWS, WIDTH)]);
