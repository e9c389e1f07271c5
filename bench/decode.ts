/**
 * Decoding one token after another, in turns with a loop that reads the same number of bytes. The models have about 100 M
 * parameters and random weights, f32, bf16, int8 and int4; or name models of your own. Prints medians, and the fastest of all
 * turns: on a busy machine the nearest to what it does alone.
 *
 *     deno task bench:decode [--repeats 41] [--group 32|64] [<model> ...]
 *
 * @module
 */
import { cli, command, integer, location, oneOf, several } from "../cli/mod.ts";
import { createBackend } from "../mod.ts";
import { TransNormerLLM } from "../model/mod.ts";
import { Baselines } from "./baselines/mod.ts";
import { HUNDRED_MILLION, randomModel } from "./measure/models.ts";
import { median, seconds, warmUp } from "./measure/timing.ts";

await cli(
  command("bench:decode", "Tokens per second of decoding, compared with reading the model's bytes.")
    .argument(
      "[model...]",
      "default: one of 100 M parameters, in f32, bf16, int8 and int4",
      several(location),
    )
    .option("--repeats <n>", "turns", integer(1), 41)
    .option("--group <32|64>", "weights that share a scale", oneOf({ 32: 32, 64: 64 } as const), 32)
    .action(measure),
);

async function measure(
  models: string[] | undefined,
  { repeats, group }: { repeats: number; group: 32 | 64 },
): Promise<void> {
  const folders = models ?? [];
  using backend = await createBackend({ prefer: "wasm" });

  /** What is timed: a step of a session, and the bytes that it reads. */
  async function variant(name: string, load: () => TransNormerLLM | Promise<TransNormerLLM>) {
    const before = backend.bytesInUse, model = await load(), session = model.session();
    session.prefill([1]).dispose();
    const total = backend.bytesInUse - before;
    const table = total * model.weights.embedTokens.size / model.parameterCount; // of which one row is read
    return {
      name,
      bytes: Math.ceil((total - table) / 128) * 128,
      parameters: model.parameterCount,
      run: () => session.step(1).dispose(),
      times: [] as number[],
    };
  }

  const sources: [string, () => TransNormerLLM | Promise<TransNormerLLM>][] = folders.length > 0
    ? folders.map((folder) => [folder, () => TransNormerLLM.load(folder, { backend })])
    : (["f32", "bf16", "int8", "int4"] as const).map((dtype) => [
      dtype,
      () => randomModel(backend, HUNDRED_MILLION, dtype, group),
    ]);
  const variants = [];
  for (const [name, load] of sources) variants.push(await variant(name, load));
  const [first] = variants;
  const baselines = new Baselines();
  using read = baselines.readBandwidth(first.bytes);
  const reads: number[] = [];
  for (const { run } of variants) await warmUp(run, 1);
  await warmUp(() => read.run());
  for (let i = 0; i < repeats; i++) {
    reads.push(await seconds(() => read.run()));
    for (const { run, times } of variants) times.push(await seconds(run));
  }

  /** Medians of ratios within a turn, not ratios of medians: a slow moment meets both. */
  const ratio = (a: readonly number[], b: readonly number[]) => median(a.map((value, i) => value / b[i]));
  console.log(
    `${(first.parameters / 1e6).toFixed(0)} M parameters, ${backend.info.device}, one thread, ${
      folders.length > 0 ? "" : `groups of ${group}, `
    }` +
      `${navigator.userAgent}, ${repeats} turns; reading: ${
        (first.bytes / median(reads) / 1e9).toFixed(1)
      } GB/s, ` +
      `at its fastest ${(first.bytes / Math.min(...reads) / 1e9).toFixed(1)} GB/s\n`,
  );
  console.log(
    "| weights | MiB | tokens/s | over the first | of the read bandwidth | fastest: tokens/s | over the first | of the bandwidth |",
  );
  console.log("|---|--:|--:|--:|--:|--:|--:|--:|");
  for (const { name, bytes, times } of variants) {
    const share = bytes / first.bytes * ratio(reads, times), fastest = Math.min(...times);
    const fastestShare = bytes / first.bytes * Math.min(...reads) / fastest;
    console.log(
      `| ${name} | ${(bytes / 2 ** 20).toFixed(0)} | ${(1 / median(times)).toFixed(1)} | ${
        ratio(first.times, times).toFixed(2)
      } | ${(100 * share).toFixed(0)} % | ${(1 / fastest).toFixed(1)} | ${
        (Math.min(...first.times) / fastest).toFixed(2)
      } | ${(100 * fastestShare).toFixed(0)} % |`,
    );
  }
}
