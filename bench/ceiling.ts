/**
 * The kernels compared with what the machine can do at best, measured in turns within one run: products with the register
 * tile on operands in L1, streams with a loop that reads the same bytes.
 *
 *     deno task bench:ceiling [--baseline] [--repeats 9]
 *
 * @module
 */
import { parseArgs } from "node:util";
import { createBackend } from "../mod.ts";
import { Baselines } from "./baselines/mod.ts";
import {
  ATTENTION_SIZES,
  type Case,
  ceilingCase,
  leftProductCase,
  lightningCase,
  linearCase,
  normCase,
  recurrenceCase,
  softmaxCase,
  stepCase,
} from "./measure/cases.ts";
import { inTurns, warmUp } from "./measure/timing.ts";

const { values: options } = parseArgs({
  options: {
    baseline: { type: "boolean", default: false },
    repeats: { type: "string", default: "9" },
  },
});
const repeats = Number(options.repeats);
if (!Number.isInteger(repeats) || repeats < 1) {
  console.error(
    `Cannot run bench:ceiling as --repeats must be an integer >= 1: current value is ${options.repeats}`,
  );
  Deno.exit(2);
}

using backend = await createBackend({ prefer: "wasm", baseline: options.baseline });
const baselines = new Baselines({ baseline: options.baseline });

const SHORT = ATTENTION_SIZES[0];
const cases: (() => Case | Promise<Case>)[] = [
  ...ATTENTION_SIZES.map((sizes) => () => lightningCase(backend, sizes)),
  () => leftProductCase(baselines, SHORT),
  () => softmaxCase(baselines, SHORT),
  () => recurrenceCase(backend, SHORT),
  () => linearCase(backend, 512, 512, 512),
  () => linearCase(backend, 1024, 1024, 1024),
  () => linearCase(backend, 1, 4096, 4096),
  () => normCase(backend, 16384, 1024),
  () => stepCase(backend, 64, 16, 128),
];

console.log(`${backend.info.device}, ${navigator.userAgent}, medians of ${repeats}\n`);
console.log(`| what | rate | ceiling | share | tokens/s |`);
console.log(`|---|--:|--:|--:|--:|`);
for (const make of cases) {
  using one = await make();
  using ceiling = ceilingCase(baselines, one);
  await warmUp(() => one.run());
  await warmUp(() => ceiling.run());
  const measured = await inTurns(() => one.run(), () => ceiling.run(), { repeats });
  const [amount, unit] = one.operations > 0 ? [one.operations, "GFLOP/s"] : [one.bytes, "GB/s"];
  const rate = (seconds: number) => `${(amount / seconds / 1e9).toFixed(1)} ${unit}`;
  const share = `${(100 * measured.ratio).toFixed(0)} %`;
  const tokens = Math.round(one.tokens / measured.run).toLocaleString("en");
  console.log(
    `| ${one.name} | ${rate(measured.run)} | ${rate(measured.yardstick)} | ${share} | ${tokens} |`,
  );
}
