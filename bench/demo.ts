/**
 * The point of lightning attention, on this machine: its speed and memory at growing lengths, compared with causal
 * softmax attention and with linear attention by the left product. Then a million tokens in constant memory. Then what it
 * is for: text from a language model that was trained with this library.
 *
 *     deno task demo [--max-length 262144] [--backend auto|webgpu|wasm] [--out out/demo.svg] [--quick]
 *
 * @module
 */
import { dirname } from "node:path";
import { backendOption, cli, command, integer, interruption, text } from "../cli/mod.ts";
import { type Backend, createBackend } from "../mod.ts";
import { TransNormerLLM } from "../model/mod.ts";
import { Baselines } from "./baselines/mod.ts";
import { baseline, compare, lightningOn } from "./demo/compare.ts";
import { cacheBytes, DIM, HEADS, type Options, SHORTEST, SLOPES, STATE_BYTES } from "./demo/layer.ts";
import { renderPlot } from "./demo/plot.ts";
import { stream } from "./demo/stream.ts";
import { bytes, count, progress } from "./demo/text.ts";

/** Speed at the longest sequence over speed at the shortest. Memory beyond the caches costs some. */
const STEADY_LIMIT = 0.6;
/** f32 sums of the same numbers in different orders. */
const AGREEMENT_LIMIT = 1e-5;
/** f32 sums of a million terms. */
const ERROR_LIMIT = 1e-4;
/** Bytes that a process may grow by for other reasons; a leak of every output would be ten times that. */
const GROWTH_LIMIT = 64 * 2 ** 20;

/** One sentence of the verdict, and whether it is good news; undefined: the run was too short to judge. */
type Finding = [good: boolean | undefined, sentence: string];

/** Compares the methods on one backend, and draws the plot. */
async function comparison(backend: Backend, options: Options, signal: AbortSignal): Promise<Finding[]> {
  const sizes = (seqLen: number) => ({ heads: HEADS, seqLen, headDim: DIM, valueDim: DIM });
  const baselines = new Baselines();
  const methods = [
    lightningOn(backend),
    baseline("left product", true, ({ q, k, v }, length) => {
      return baselines.leftProduct(q, k, v, sizes(length), SLOPES);
    }),
    baseline("softmax attention", false, ({ q, k, v }, length) => {
      return baselines.softmaxAttention(q, k, v, sizes(length));
    }),
  ];
  // Where the library runs on a GPU, it also runs where the others do.
  using wasm = backend.name === "wasm" ? undefined : await createBackend({ prefer: "wasm", signal });
  if (wasm !== undefined) methods.splice(1, 0, lightningOn(wasm));
  console.log(
    `One layer's attention: ${HEADS} heads of ${DIM}, f32. The left product and softmax attention run in`,
  );
  console.log(`WebAssembly SIMD on one thread, with the same register tile as lightning attention there.\n`);

  const { points, disagreement } = await compare(methods, options, signal);
  await Deno.writeTextFile(options.out, await renderPlot(points, STATE_BYTES, cacheBytes));
  console.log(`\nPlot: ${options.out}\n`);

  const findings = methods.map(({ name, order }): Finding => {
    const { length, steadiness } = points.findLast((point) => point.method === name)!;
    return [
      order === 2 ? true : options.quick ? undefined : steadiness >= STEADY_LIMIT,
      `${name}: ${count(length)} tokens at ${(100 * steadiness).toFixed(0)} % of the speed at ${
        count(SHORTEST)
      }`,
    ];
  });
  findings.push([
    disagreement <= AGREEMENT_LIMIT,
    `linear attention by either product differs by ${disagreement.toExponential(1)}`,
  ]);
  return findings;
}

/** Streams on a separate backend: WebAssembly memory that has grown would hide growth. */
async function streaming(
  prefer: "webgpu" | "wasm",
  options: Options,
  signal: AbortSignal,
): Promise<Finding[]> {
  using backend = await createBackend({ prefer, signal });
  const { tokensPerSecond, held, process, error } = await stream(backend, options, signal);
  const tokens = count(options.stream);
  console.log(`Stream of ${tokens} tokens in segments of ${count(options.segment)}, state carried`);
  console.log(`  speed             ${count(tokensPerSecond)} tokens/s`);
  console.log(
    `  tensors           ${bytes(held[0])} after the first segment, at most ${bytes(held[1])} later`,
  );
  console.log(
    `  whole process     ${bytes(process[0])} after the first segment, at most ${bytes(process[1])} later`,
  );
  console.log(`  error             ${error.toExponential(1)} against a float64 recurrence over all tokens\n`);
  return [
    [held[0] === held[1], `${tokens} tokens streamed: tensors grew by ${bytes(held[1] - held[0])}`],
    [
      options.quick ? undefined : process[1] - process[0] <= GROWTH_LIMIT,
      `after the first segment the process grew by ${bytes(process[1] - process[0])}`,
    ],
    [
      error <= ERROR_LIMIT,
      `the state after ${tokens} tokens differs from float64 by ${error.toExponential(1)}`,
    ],
  ];
}

/** Lets the shipped model write, as one reads it: a state of fixed size, however much it has written. */
async function writing(prefer: "webgpu" | "wasm", signal: AbortSignal): Promise<Finding> {
  const prompt = "The state of the Union is", maxTokens = 400;
  using backend = await createBackend({ prefer, signal });
  using model = await TransNormerLLM.load(new URL("../models/sotu", import.meta.url), { backend, signal });
  console.log(
    `A TransNormerLLM of ${(model.parameterCount / 1e6).toFixed(1)} M parameters, trained by this library`,
  );
  const encoder = new TextEncoder();
  Deno.stdout.writeSync(encoder.encode(`  ${prompt}`));
  let tokens = 0;
  const start = performance.now();
  for await (const { text } of model.generate(prompt, { maxTokens, temperature: 0.7, seed: 3, signal })) {
    Deno.stdout.writeSync(encoder.encode(text.replaceAll("\n", "\n  ")));
    tokens++;
  }
  const speed = Math.round(tokens / (performance.now() - start) * 1000);
  console.log("\n");
  return [tokens > 0, `the model wrote ${tokens} bytes, ${speed} a second`];
}

async function main(options: Options, signal: AbortSignal): Promise<boolean> {
  // Before a minute of work, not after it.
  await Deno.mkdir(dirname(options.out), { recursive: true });
  await Deno.writeTextFile(options.out, "", { append: true });

  const findings: Finding[] = [];
  let name: "webgpu" | "wasm";
  {
    using backend = await createBackend({ prefer: options.backend, signal });
    name = backend.name;
    console.log(`Backend: ${name}, ${backend.info.device} (${backend.info.reason})`);
    findings.push(...await comparison(backend, options, signal));
  }
  findings.push(...await streaming(name, options, signal));
  findings.push(await writing(name, signal));

  console.log("Verdict");
  for (const [good, sentence] of findings) {
    const mark = good === undefined ? "· (too short a run to judge)" : good ? "✓" : "✗ NOT AS IT SHOULD BE:";
    console.log(`  ${mark} ${sentence}`);
  }
  return findings.every(([good]) => good !== false);
}

await cli(
  command("demo", "Lightning attention at growing lengths, compared with what it replaces.")
    .option(
      "--max-length <n>",
      "longest sequence (default: 262144; with --quick 4096)",
      integer(SHORTEST),
    )
    .addOption(backendOption())
    .option("--out <file>", "where the plot goes", text, "out/demo.svg")
    .option("--quick", "a few seconds instead of about a minute: too short to judge speed and memory", false)
    .action(async ({ quick, maxLength = quick ? 4096 : 262144, ...options }) => {
      const signal = interruption();
      signal.addEventListener("abort", () => progress.note("Stopping after this measurement."));
      const scale = quick
        ? { patience: 0.5, stream: 2 ** 16, segment: 2 ** 12 }
        : { patience: 4, stream: 2 ** 20, segment: 2 ** 14 };
      try {
        if (!await main({ ...options, quick, maxLength, ...scale }, signal)) Deno.exitCode = 1;
      } finally {
        progress.draw("");
      }
    }),
);
