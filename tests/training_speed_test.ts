/** Training speed against length: what is measured, what is kept, and where it ends. */
import assert from "node:assert/strict";
import { fileURLToPath } from "node:url";
import { trainingSpeed, TrainingSteps } from "../bench/measure/training.ts";
import type { TrainingReport } from "../bench/report/results.ts";
import { configByName } from "../train/configs.ts";
import { inFolder } from "./folder.ts";
import { eachBackend } from "./harness.ts";

const ROOT = fileURLToPath(new URL("../", import.meta.url));

eachBackend(
  "a step's memory is measured where the device has a clock, and is what was told",
  async (backend) => {
    const config = configByName("tiny"), tokens = 256;
    using steps = new TrainingSteps(backend, config, tokens);
    await steps.take(64);
    const bytes = await steps.bytes(64), { parameters, activations } = steps.memory(64);
    if (backend.name === "wasm") return assert.equal(bytes, undefined);
    // Scratch comes on top: here up to as much again, on models that a GPU is for it hardly counts.
    assert(
      bytes! >= parameters && bytes! < 2 * (parameters + activations),
      `${bytes}, ${parameters} + ${activations}`,
    );
  },
);

eachBackend("speeds are those of lengths that were measured before the end", async (backend) => {
  const config = configByName("tiny"), stop = new AbortController();
  const seen: number[] = [];
  const speeds = await trainingSpeed(backend, config, {
    ...{ tokens: 128, lengths: [32, 64, 128], repeats: 2, signal: stop.signal },
    onStep(length) {
      seen.push(length);
      if (seen.length === 5) stop.abort(); // of the first turn that counts two
    },
  });
  assert.deepEqual(seen, [32, 64, 128, 32, 64]);
  assert.deepEqual(speeds.map(({ length }) => length), [32, 64]);
  for (const { tokensPerSecond } of speeds) assert(tokensPerSecond > 0);
});

Deno.test("the command adds a mixer to what is kept, and drops what was measured otherwise", async () => {
  await inFolder(async (folder) => {
    const file = `${folder}/speed.json`;
    const task = async (...more: string[]) => {
      const { code, stderr } = await new Deno.Command(Deno.execPath(), {
        args: [
          ...["task", "bench:training", "--config", "tiny", "--backend", "wasm", "--lengths", "32,64"],
          ...["--repeats", "1", "--json", file, ...more],
        ],
        cwd: ROOT,
        stdout: "null",
      }).output();
      assert.equal(code, 0, new TextDecoder().decode(stderr));
      return JSON.parse(await Deno.readTextFile(file)) as TrainingReport;
    };
    const first = await task("--tokens", "64");
    assert.deepEqual(first.speeds.map(({ method, length }) => [method, length]), [
      ["lightning attention", 32],
      ["lightning attention", 64],
    ]);
    assert.equal(
      first.commands["lightning attention"],
      "deno task bench:training --config tiny --backend wasm --lengths 32,64 --repeats 1 --tokens 64",
    );
    await Deno.writeTextFile(
      file,
      JSON.stringify({ ...first, speeds: [{ method: "another", length: 32, tokensPerSecond: 1 }] }),
    );
    assert.equal((await task("--tokens", "64")).speeds.length, 3);
    assert.equal((await task("--tokens", "128")).speeds.length, 2);
    const again = await task("--tokens", "128", "--recompute");
    assert.deepEqual([again.recompute, again.speeds.length], [true, 2]);
  });
});
