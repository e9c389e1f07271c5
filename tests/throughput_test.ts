/** Throughput of batches: how many sequences fit, and the command. */
import assert from "node:assert/strict";
import { fileURLToPath } from "node:url";
import { cacheBytes, fittingBatch, MODELS, type ThroughputResults } from "../bench/measure/throughput.ts";
import { inFolder } from "./folder.ts";

const ROOT = fileURLToPath(new URL("../", import.meta.url));

Deno.test("as many sequences are taken as their caches fit, a power of two", () => {
  const recipe = { batch: 64, memory: 48 * 2 ** 30, weights: "bf16" as const };
  const batches = [1024, 8192, 65536, 131072].map((length) => fittingBatch(MODELS["1B"], length, recipe));
  // Of 1B a token's keys and values take 256 KiB.
  assert.equal(cacheBytes(MODELS["1B"], 1).all, 2 ** 18);
  assert.deepEqual(batches, [64, 16, 2, 1]);
  assert.equal(fittingBatch(MODELS["1B"], 131072, { ...recipe, memory: 2 ** 34 }), 0);
  for (const length of [1024, 131072]) {
    const batch = fittingBatch(MODELS["125M"], length, recipe);
    assert(batch * cacheBytes(MODELS["125M"], length).tensor < 2 ** 31, `${batch} of ${length}`);
  }
});

Deno.test("the command measures each length once, with both kinds of attention", async () => {
  await inFolder(async (folder) => {
    const json = `${folder}/found.json`;
    const task = async (...more: string[]) => {
      const { code, stdout, stderr } = await new Deno.Command(Deno.execPath(), {
        args: [
          ...["task", "bench:throughput", "--models", "0.1M", "--backend", "wasm", "--weights", "f32"],
          ...["--memory", "1", "--json", json, "--work", `${folder}/work`, ...more],
        ],
        cwd: ROOT,
      }).output();
      const text = (bytes: Uint8Array) => new TextDecoder().decode(bytes);
      return { code, out: text(stdout), errors: text(stderr) };
    };
    const first = await task("--lengths", "64", "--batch", "2");
    assert.equal(first.code, 0, first.errors);
    assert.match(
      first.out,
      /^0\.1M after 64: \d+ tokens\/s of 2 sequences; softmax \d+ tokens\/s of 2 .*\nfinished: /m,
    );
    const second = await task("--lengths", "64,128", "--batch", "2");
    assert.doesNotMatch(second.out, /after 64:/);
    const { runs }: ThroughputResults = JSON.parse(await Deno.readTextFile(json));
    assert.deepEqual(Object.keys(runs), ["0.1M 64", "0.1M 128"]);
    for (const { lightning, softmax } of Object.values(runs)) {
      for (const { batch, tokensPerSecond, turns } of [lightning, softmax]) {
        assert(batch === 2 && turns.length === 3 && turns.includes(tokensPerSecond) && tokensPerSecond > 0);
      }
    }
    assert.match((await task("--lengths", "64", "--batch", "4")).errors, /was measured otherwise/);
    assert.equal((await task("--models", "2B")).code, 2);
  });
});
