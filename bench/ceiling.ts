/**
 * The kernels compared with what the machine can do at best, measured in turns within one run: products with the register
 * tile on operands in L1, streams with a loop that reads the same bytes.
 *
 *     deno task bench:ceiling [--baseline] [--repeats 9]
 *
 * @module
 */
import { cli, command, integer } from "../cli/mod.ts";
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

await cli(
  command("bench:ceiling", "Share of the machine's ceiling that each kernel reaches, measured in turns.")
    .option("--baseline", "without relaxed SIMD", false)
    .option("--repeats <n>", "measurements of each", integer(1), 9)
    .action(measure),
);

async function measure({ baseline, repeats }: { baseline: boolean; repeats: number }): Promise<void> {
  using backend = await createBackend({ prefer: "wasm", baseline });
  const baselines = new Baselines({ baseline });

  const SHORT = ATTENTION_SIZES[0];
  const cases: (() => Case | Promise<Case>)[] = [
    ...ATTENTION_SIZES.map((sizes) => () => lightningCase(backend, sizes)),
    () => leftProductCase(baselines, SHORT),
    () => softmaxCase(baselines, SHORT),
    () => recurrenceCase(backend, SHORT),
    () => linearCase(backend, 512, 512, 512),
    () => linearCase(backend, 1024, 1024, 1024),
    () => linearCase(backend, 64, 1024, 4096),
    () => linearCase(backend, 16, 1024, 4096),
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
}
