/**
 * Loading models from a warm page cache, in turns with a copy of as many bytes within memory: bytes of file per second, and
 * the memory that the host holds on the way besides what the backend holds. By default a model of 100 M parameters with
 * random weights in BF16; or name models of your own.
 *
 *     deno task bench:load [--repeats 9] [--backend wasm|webgpu] [<model> ...]
 *
 * @module
 */
import { cli, command, integer, location, several } from "../cli/mod.ts";
import { Option } from "@commander-js/extra-typings";
import { createBackend } from "../mod.ts";
import { TransNormerLLM } from "../model/mod.ts";
import { writeCheckpoint } from "./measure/checkpoints.ts";
import { HUNDRED_MILLION } from "./measure/models.ts";
import { median, seconds } from "./measure/timing.ts";

await cli(
  command("bench:load", "Loading from a warm page cache, compared with copying the bytes within memory.")
    .argument("[model...]", "default: one of 100 M parameters in BF16", several(location))
    .option("--repeats <n>", "turns", integer(1), 9)
    .addOption(new Option("--backend <name>", "where to load").choices(["wasm", "webgpu"]).default("wasm"))
    .action(async (models: string[] | undefined, { repeats, backend }) => {
      if (models?.length) return await measure(models, repeats, backend as "wasm" | "webgpu");
      const folder = await Deno.makeTempDir();
      try {
        await writeCheckpoint(folder, HUNDRED_MILLION);
        await measure([folder], repeats, backend as "wasm" | "webgpu");
      } finally {
        await Deno.remove(folder, { recursive: true });
      }
    }),
);

async function measure(models: readonly string[], repeats: number, prefer: "wasm" | "webgpu"): Promise<void> {
  using backend = await createBackend({ prefer });
  console.log(`${backend.name} on ${backend.info.device}\n`);
  const MB = 1e6, mb = (bytes: number) => (bytes / MB).toFixed(0).padStart(6);
  for (const model of models) {
    let bytes = 0, largest = 0, peak = 0;
    const load = async (onProgress?: () => void) => {
      using loaded = await TransNormerLLM.load(model, {
        backend,
        onProgress(progress) {
          bytes = progress.bytes;
          onProgress?.();
        },
      });
      const { embedTokens, layers: [{ qkvuProj }] } = loaded.weights;
      largest = Math.max(embedTokens.size, qkvuProj.weight.size) / loaded.parameterCount * bytes;
      using last = backend.zeros([1]);
      await last.data(); // what was uploaded before is there
    };
    await load(); // the backend takes its memory, the files come into the cache
    const from = new Uint8Array(bytes).fill(1), to = new Uint8Array(bytes).fill(1);
    const loads: number[] = [], copies: number[] = [];
    for (let turn = 0; turn < repeats; turn++) {
      copies.push(await seconds(() => to.set(from)));
      loads.push(await seconds(() => load()));
    }
    const { rss } = Deno.memoryUsage();
    await load(() => peak = Math.max(peak, Deno.memoryUsage().rss - rss));
    const ratio = median(loads.map((load, i) => load / copies[i]));
    console.log(model);
    console.log(`  ${mb(bytes)} MB of tensors, the largest of ${mb(largest)} MB`);
    console.log(
      `  ${mb(bytes / median(loads))} MB/s, the fastest turn ${mb(bytes / Math.min(...loads))} MB/s`,
    );
    console.log(
      `  ${mb(bytes / median(copies))} MB/s copied, the fastest turn ${mb(bytes / Math.min(...copies))} MB/s`,
    );
    console.log(`  a load takes ${ratio.toFixed(1)} times a copy; the host held ${mb(peak)} MB at most`);
  }
}
