/** A model of about 100 M parameters on each backend: a prompt, and one token. */
import { presentBackends } from "./measure/backends.ts";
import { Baselines } from "./baselines/mod.ts";
import { ceilingCase, register } from "./measure/cases.ts";
import { decodeCase, HUNDRED_MILLION, prefillCase, randomModel } from "./measure/models.ts";

const models = [];
for (const backend of await presentBackends()) models.push(await randomModel(backend, HUNDRED_MILLION));

const baselines = new Baselines();
for (const cases of [models.map(decodeCase), models.map((model) => prefillCase(model, 768))]) {
  register(cases[0].name, [...cases, ceilingCase(baselines, cases[0])]);
}
