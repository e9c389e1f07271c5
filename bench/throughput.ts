/**
 * Tokens per second of a batch that fits the device, by the length of the context: Lightning Attention and softmax attention
 * with a cache, the same random weights, in turns. Stopped, it continues where it was; processes with the same
 * `--json` share the work, each on a GPU of its own.
 *
 *     deno task bench:throughput [--models 125M,1B] [--lengths 1K,2K,...] [--batch 64] [--memory 48]
 *
 * @module
 */
import {
  backendOption,
  cli,
  command,
  integer,
  interruption,
  items,
  oneOf,
  path,
  StatusLine,
  tokens,
  UsageError,
  write,
} from "../cli/mod.ts";
import { createBackend } from "../mod.ts";
import { Shared, workInTurns } from "./measure/sharing.ts";
import { LastModel, MODELS, throughput, type ThroughputResults } from "./measure/throughput.ts";
import { shortLength } from "./report/evaluation.ts";
import { commit } from "./report/results.ts";

const NAMES = Object.keys(MODELS);
const LENGTHS = Array.from({ length: 8 }, (_, i) => 1024 * 2 ** i);

await cli(
  command(
    "bench:throughput",
    "Tokens per second of a batch, by the length of the context, compared with softmax.",
  )
    .option("--models <names>", NAMES.join(", "), (names: string) => names.split(","), ["125M", "1B"])
    .option("--lengths <n,n,...>", "tokens of context", items(tokens), LENGTHS)
    .option("--batch <n>", "most sequences of a batch", integer(1), 64)
    .option(
      "--memory <GiB>",
      "what caches may take in all; fewer sequences where they would take more",
      integer(1),
      48,
    )
    .option(
      "--weights <type>",
      "how matrices are stored: f32, bf16",
      oneOf({ f32: "f32", bf16: "bf16" } as const),
      "bf16" as const,
    )
    .option("--seconds <n>", "begin nothing after this long", integer(1))
    .option("--json <file>", "results", path, "docs/evidence/throughput.json")
    .option("--work <folder>", "what processes that share the work lock", path, "out/throughput")
    .addOption(backendOption("webgpu"))
    .action(async ({ models, lengths, batch, memory, weights, seconds, json, work, backend: prefer }) => {
      const unknown = models.find((name) => !Object.hasOwn(MODELS, name));
      if (unknown !== undefined) throw new UsageError(`--models must be some of ${NAMES}: ${unknown}`);
      const stop = interruption();
      const signal = seconds === undefined
        ? stop
        : AbortSignal.any([stop, AbortSignal.timeout(1000 * seconds)]);
      using backend = await createBackend({ prefer, threads: "auto" });
      const about = {
        ...{ format: "levin throughput 1" as const, batch, memory: memory * 2 ** 30, weights },
        ...{
          device: backend.info.device,
          date: new Date().toISOString().slice(0, 10),
          commit: await commit(),
        },
      };
      const shared = new Shared<ThroughputResults>(json, work, (kept) => checkSame(kept, about, json));
      const plan = models.flatMap((model) =>
        lengths.map((length) => ({ name: `${model} ${length}`, model, length }))
      );
      const left = (kept: ThroughputResults | undefined) =>
        plan.filter(({ name }) => kept?.runs[name] === undefined);
      const status = new StatusLine();
      using loaded = new LastModel(backend, weights);
      await workInTurns(shared, left, {
        signal,
        onWait: () => status.draw("other processes have taken what is left"),
        async run({ name, model, length }) {
          status.draw(`${model} after ${shortLength(length)}`);
          const result = await throughput(loaded.get(model), MODELS[model], length, about);
          await shared.keep(about, { [name]: result });
          status.end();
          const { lightning, softmax } = result;
          const cell = ({ batch, tokensPerSecond }: typeof softmax) =>
            `${tokensPerSecond.toFixed(0)} tokens/s of ${batch} sequences`;
          write(
            `${model} after ${shortLength(length)}: ${cell(lightning)}; softmax ${cell(softmax)}; ` +
              `${(lightning.tokensPerSecond / softmax.tokensPerSecond).toFixed(2)} times\n`,
          );
          return true;
        },
      });
      status.end();
      const count = left(await shared.read()).length;
      write(count === 0 ? `finished: ${json}\n` : `${count} are to come: the same command continues\n`);
      stop.throwIfAborted();
    }),
);

/** Lengths that are to be compared must be measured in one way on one device. */
function checkSame(
  kept: ThroughputResults,
  about: Omit<ThroughputResults, "runs">,
  file: string,
): void {
  const facts = ({ batch, memory, weights, device }: Omit<ThroughputResults, "runs">) =>
    JSON.stringify({ batch, memory, weights, device });
  if (facts(kept) !== facts(about)) {
    throw new RangeError(`${file} was measured otherwise: ${facts(kept)} instead of ${facts(about)}`);
  }
}
