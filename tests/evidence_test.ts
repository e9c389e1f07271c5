/** Evidence: verdicts follow from figures, and the page from results. */
import assert from "node:assert/strict";
import { fileURLToPath } from "node:url";
import {
  better,
  CLAIMS,
  constant,
  EXPERIMENT_CLAIMS,
  falling,
  findings,
  missingResults,
  near,
  reaching,
  readResult,
  renderEvidence,
  type Result,
} from "../bench/report/evidence.ts";
import { type Experiments, runName, VARIANTS } from "../bench/measure/experiments.ts";
import type { RecallResults } from "../bench/measure/recall.ts";
import type { ThroughputResults } from "../bench/measure/throughput.ts";

Deno.test("a verdict is one word that follows from the figure", () => {
  assert.deepEqual([1.03, 0.9, 0.89, 0.51, 0.5, 0].map(constant), [
    ...["holds", "holds", "does not show", "does not show", "contradicts", "contradicts"],
  ]);
  assert.deepEqual([0.15, 0.5, 0.51, 0.99, 1].map(falling), [
    ...["holds", "holds", "does not show", "does not show", "contradicts"],
  ]);
  assert.deepEqual([46, 11, 10.9, 1, 0.9].map((ratio) => reaching(ratio, 11)), [
    ...["holds", "holds", "does not show", "does not show", "contradicts"],
  ]);
  // What is no number holds nothing.
  for (const verdict of [constant(NaN), falling(NaN), reaching(NaN, 11)]) assert.notEqual(verdict, "holds");
});

Deno.test("each claim reads its results, and changes its verdict with their figures", async () => {
  const figures = [
    ...["tokensPerSecond", "gigabytesPerSecond", "bitsPerByte", "bytes", "loss", "recalled"],
  ];
  const isFigure = (key: string, value: unknown) => typeof value === "number" && figures.includes(key);
  for (const claim of CLAIMS) {
    const verdicts = new Set<string>();
    for (const result of claim.results) {
      const kept = await readResult(result);
      if (kept === undefined) continue; // the page lists it as open
      for (const { setting, ours, verdict } of findings(claim, kept)) {
        assert.doesNotMatch(`${setting} ${ours}`, /NaN|undefined|Infinity/);
        verdicts.add(verdict);
      }
      // The same figure everywhere, or figures that rise, or that fall: one of them is another verdict, or the test could
      // not fail.
      const flat = JSON.stringify(kept, (key, value) => isFigure(key, value) ? 1 : value);
      let rising = 1, falling = 1;
      const steep = JSON.stringify(kept, (key, value) => isFigure(key, value) ? rising *= 1.5 : value);
      const fallen = JSON.stringify(kept, (key, value) => isFigure(key, value) ? falling /= 1.5 : value);
      for (const text of [flat, steep, fallen]) {
        for (const { verdict } of findings(claim, JSON.parse(text))) verdicts.add(verdict);
      }
    }
    assert(verdicts.size !== 1, `always ${[...verdicts]}: ${claim.claim}`);
  }
});

Deno.test("docs/evidence.md is what the results say, and names all that are missing", async () => {
  const root = fileURLToPath(new URL("../", import.meta.url));
  const { code, stderr } = await new Deno.Command(Deno.execPath(), {
    args: ["task", "evidence", "--check"],
    cwd: root,
    stdout: "null",
  }).output();
  assert.equal(code, 0, new TextDecoder().decode(stderr));
  const open = (await Deno.readTextFile(`${root}docs/evidence.md`)).split("\n## Open\n")[1] ?? "";
  for (const { command } of await missingResults()) {
    assert(open.includes(command.join(" ")), command.join(" "));
  }
});

Deno.test("--run takes the claims that it is told, and no longer than it may", async () => {
  const root = fileURLToPath(new URL("../", import.meta.url));
  const evidence = async (...args: string[]) => {
    const { code, stderr, stdout } = await new Deno.Command(Deno.execPath(), {
      args: ["task", "evidence", ...args],
      cwd: root,
    }).output();
    return { code, text: new TextDecoder().decode(stdout) + new TextDecoder().decode(stderr) };
  };
  const wrong = await evidence("--run", "gates");
  assert.equal(wrong.code, 2);
  assert.match(wrong.text, /--run takes some of .*gate.*: gates/s);
  assert.equal((await evidence("--run", "--check")).code, 2);
  // Nothing is begun with a second left.
  const late = await evidence("--run", "methods,activation", "--seconds", "1");
  assert.equal(late.code, 0, late.text);
  const missing = await missingResults(
    EXPERIMENT_CLAIMS.filter(({ name }) => /methods|activation/.test(name)),
  );
  assert.equal(/time is over/.test(late.text), missing.length > 0, late.text);
  assert.doesNotMatch(late.text, /deno task experiment/);
});

/** Results of all variants, two seeds each, whose losses follow from a function. */
function experiments(lossOf: (variant: string, seed: number) => number): Experiments {
  const names = Object.keys(VARIANTS);
  return {
    ...{ format: "levin experiments 1", size: "tiny", steps: 10, seqLen: 64, batch: 2, device: "a device" },
    ...{ date: "2026-11-25", commit: "", data: { sha256: "", train: 1, heldOut: 1 } },
    runs: Object.fromEntries(names.flatMap((variant) =>
      [1, 2].map((seed) => [runName(variant, seed), {
        ...{ parameters: 1e5, learningRate: 1e-3, steps: 10, loss: 1, bitsPerByte: 1, tokensPerSecond: 1 },
        heldOutLoss: lossOf(variant, seed),
      }])
    )),
  };
}

Deno.test("a claim of training holds where every seed says so, and no seed's luck decides", () => {
  assert.deepEqual([better([1, 2], [3, 4]), better([1, 3], [2, 4]), better([3, 4], [1, 2])], [
    ...["holds", "does not show", "contradicts"],
  ]);
  assert.deepEqual([0, 0.01, 0.02, 0.05].map(near), ["holds", "holds", "does not show", "contradicts"]);
  for (const verdict of [better([NaN, 1], [3, 4]), near(NaN)]) assert.notEqual(verdict, "holds");
  const names = Object.keys(VARIANTS);
  const rising = experiments((variant, seed) => 1 + names.indexOf(variant) + seed / 10);
  const falls = experiments((variant, seed) => 20 - names.indexOf(variant) + seed / 10);
  const same = experiments((_, seed) => 1 + seed / 1e4);
  for (const claim of EXPERIMENT_CLAIMS) {
    const verdicts = [rising, falls, same].map((result) => findings(claim, result)[0].verdict);
    assert(new Set(verdicts).size > 1, `always ${verdicts}: ${claim.claim}`);
    assert.deepEqual(findings(claim, { ...rising, runs: {} }), []);
    const one = Object.entries(rising.runs).filter(([name]) => name.endsWith(" 1"));
    const alone = findings(claim, { ...rising, runs: Object.fromEntries(one) });
    assert.deepEqual(alone, [], `one seed is enough: ${claim.claim}`);
  }
  // "no-gate 1" is no seed of a model whose name is its beginning, nor is a run of the sweep one.
  const { runs } = same, sweep = { ...runs["tnl 1"], heldOutLoss: 99 };
  const [found] = findings(EXPERIMENT_CLAIMS[0], { ...same, runs: { ...runs, "tnl sweep 0.001": sweep } });
  assert.equal(found.ours, findings(EXPERIMENT_CLAIMS[0], same)[0].ours);
});

Deno.test("the page has a section for each result, and lists what is open with its command", async () => {
  const result = experiments((variant, seed) =>
    1 + Object.keys(VARIANTS).indexOf(variant) / 100 + seed / 1000
  );
  const read = (which: Result) =>
    Promise.resolve(/evidence\/(training-|methods)/.test(which.file) ? { ...result } : undefined);
  const page = await renderEvidence(read);
  const sections = page.split(/^## /m).slice(1);
  assert.equal(sections.length, EXPERIMENT_CLAIMS.length + 1);
  assert.match(sections[0], /2\.7224 ± 0\.0014 \(tnl\) and/);
  assert.doesNotMatch(page, /NaN|undefined/);
  const open = sections.at(-1)!;
  for (const { claim } of CLAIMS) assert(open.includes(claim), claim);
  assert.match(open, /`deno task evaluate --model models\/sotu/);
  const commands = (await missingResults(EXPERIMENT_CLAIMS, () => Promise.resolve(undefined))).map((
    { command },
  ) => command.join(" "));
  assert.deepEqual(commands.length, 3, commands.join("\n"));
});

const claimOf = (name: string) => CLAIMS.find((claim) => claim.name === name)!;
const KEPT = { device: "a device", date: "2026-11-25", commit: "" };

Deno.test("recall is judged by what is kept beyond the trained length, and only of models that have learnt it", () => {
  const results = (within: number, beyond: number): RecallResults => ({
    ...{ format: "levin recall 1", ...KEPT, size: "small", steps: 10, tokens: 1000, scored: 1, trials: 1 },
    ...{ positions: [1024, 2048, 4096], distances: [1024, 2048], data: { sha256: "", train: 1, heldOut: 1 } },
    runs: {
      "tnl 2048": {
        ...{ parameters: 1, learningRate: 1, bitsPerByte: 1, tokensPerSecond: 1 },
        positions: [1024, 2048, 4096].map((position, i) => ({ position, loss: 1 + i / 10 })),
        recall: [{ distance: 1024, recalled: within }, { distance: 2048, recalled: beyond }].map((one) => ({
          ...{ ...one, trials: 1, bitsPerDigit: 1 },
        })),
      },
    },
  });
  const verdict = (within: number, beyond: number) =>
    findings(claimOf("recall"), results(within, beyond)).map(({ verdict }) => verdict);
  assert.deepEqual(verdict(1, 0.95), ["holds"]);
  assert.deepEqual(verdict(1, 0.7), ["does not show"]);
  assert.deepEqual(verdict(0.8, 0.1), ["contradicts"]);
  assert.deepEqual(verdict(0.2, 0.2), ["does not show"]);
  assert.deepEqual(findings(claimOf("recall-llama"), results(1, 1)), []);
  const [{ ours, verdict: longer }] = findings(claimOf("lengths"), results(1, 1));
  assert.equal(longer, "contradicts");
  assert.match(ours, /^1K: 1\.0000, 2K: 1\.1000, 4K: 1\.2000 nats$/);
});

Deno.test("throughput is judged for each model, and says how many sequences there were", () => {
  const run = (length: number, batch: number, ratio: number) => ({
    ...{ parameters: 1e6, length },
    lightning: { batch: 64, tokensPerSecond: 1000, turns: [1000] },
    softmax: { batch, tokensPerSecond: 1000 / ratio, turns: [1000 / ratio] },
  });
  const result: ThroughputResults = {
    ...{ format: "levin throughput 1", ...KEPT, batch: 64, memory: 2 ** 30, weights: "bf16" },
    runs: {
      "1B 4096": run(4096, 8, 12),
      "125M 1024": run(1024, 64, 0.5),
      "1B 1024": run(1024, 64, 2),
      "125M 2048": run(2048, 32, 0.8),
    },
  };
  const found = findings(claimOf("throughput"), result);
  assert.deepEqual(found.map(({ verdict }) => verdict), ["holds", "contradicts"]);
  assert.equal(
    found[0].ours,
    "up to 12.0 times, at 4K, 64 sequences against the 8 that fit; 64 against 64, at 1K: 2.00 times",
  );
  assert.deepEqual(findings(claimOf("writing"), result).map(({ ours }) => ours), [
    "keeps 100 %",
    "keeps 100 %",
  ]);
});
