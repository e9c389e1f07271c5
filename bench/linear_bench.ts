/** `linear` on each backend, compared with its ceiling and its peers: the register tile for many rows, memory for one. */
import { presentBackends } from "./measure/backends.ts";
import { Baselines } from "./baselines/mod.ts";
import { ceilingCase, linearCase, register } from "./measure/cases.ts";
import { jaxLinearCase } from "./peers/jax.ts";
import { onnxLinearCase } from "./peers/onnxruntime.ts";
import { tfjsLinearCase } from "./peers/tfjs.ts";

const backends = await presentBackends();
const baselines = new Baselines();

for (const [rows, inDim, outDim] of [[512, 512, 512], [1024, 1024, 1024], [1, 4096, 4096]]) {
  const own = await Promise.all(backends.map((backend) => linearCase(backend, rows, inDim, outDim)));
  register(`linear ${rows} × ${inDim} → ${outDim}`, [
    ...own,
    ceilingCase(baselines, own[0]),
    await onnxLinearCase(rows, inDim, outDim),
    await tfjsLinearCase(rows, inDim, outDim),
    ...await Promise.all(backends.map(({ name }) => jaxLinearCase(name, rows, inDim, outDim))),
  ]);
}
