/** Attention forward, backward and step on each backend, compared with its ceiling, its baselines and its peers. */
import { presentBackends } from "./measure/backends.ts";
import { Baselines } from "./baselines/mod.ts";
import {
  ATTENTION_SIZES,
  type Case,
  ceilingCase,
  describe,
  leftProductBackwardCase,
  leftProductCase,
  lightningBackwardCase,
  lightningCase,
  recurrenceCase,
  register,
  softmaxCase,
  stepCase,
} from "./measure/cases.ts";
import { jaxAttentionCase } from "./peers/jax.ts";
import { onnxAttentionCase } from "./peers/onnxruntime.ts";

const backends = await presentBackends();
const baselines = new Baselines();

for (const sizes of ATTENTION_SIZES) {
  const forward: Case[] = [], backward: Case[] = [];
  for (const backend of backends) {
    forward.push(await lightningCase(backend, sizes));
    backward.push(await lightningBackwardCase(backend, sizes));
  }
  forward.push(ceilingCase(baselines, forward[0]));
  forward.push(leftProductCase(baselines, sizes), softmaxCase(baselines, sizes));
  // The peers hold all scores: they take 2048 tokens and not much more. The recurrence takes any length alike.
  if (sizes.seqLen === 2048) {
    forward.push(await recurrenceCase(backends[0], sizes), await onnxAttentionCase(sizes));
    for (const { name } of backends) forward.push(await jaxAttentionCase(name, sizes));
    backward.push(leftProductBackwardCase(baselines, sizes));
  }
  register(`attention forward, ${describe(sizes)}`, forward);
  register(`attention backward, ${describe(sizes)}`, backward);
}

const steps = await Promise.all(backends.map((backend) => stepCase(backend, 64, 16, 128)));
register("step", [...steps, ceilingCase(baselines, steps[0])]);
