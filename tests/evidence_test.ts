/** Evidence: verdicts follow from figures, and the page from results. */
import assert from "node:assert/strict";
import { fileURLToPath } from "node:url";
import {
  better,
  CLAIMS,
  constant,
  EXPERIMENT_CLAIMS,
  falling,
  missingResults,
  near,
  reaching,
  readResult,
  renderEvidence,
  type Result,
} from "../bench/report/evidence.ts";
import { type Experiments, runName, VARIANTS } from "../bench/measure/experiments.ts";

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
  const worse = (key: string, value: unknown) =>
    typeof value === "number" && ["tokensPerSecond", "gigabytesPerSecond", "bitsPerByte"].includes(key);
  for (const { claim, results, find } of CLAIMS) {
    const verdicts = new Set<string>();
    for (const result of results) {
      const kept = await readResult(result);
      assert(kept, `${result.file} of: ${claim}`);
      const finding = find(kept);
      assert(finding, `${result.file} says nothing of: ${claim}`);
      assert.doesNotMatch(`${finding.setting} ${finding.ours}`, /NaN|undefined|Infinity/);
      verdicts.add(finding.verdict);
      // The same figure everywhere, or figures that rise: one of them is another verdict, or the test could not fail.
      const flat = JSON.stringify(kept, (key, value) => worse(key, value) ? 1 : value);
      let rising = 1;
      const steep = JSON.stringify(kept, (key, value) => worse(key, value) ? rising *= 1.5 : value);
      for (const text of [flat, steep]) verdicts.add(find(JSON.parse(text))!.verdict);
    }
    assert(verdicts.size > 1, `always ${[...verdicts]}: ${claim}`);
  }
});

Deno.test("no result of what was measured is missing, and docs/evidence.md is what they say", async () => {
  assert.deepEqual(await missingResults(CLAIMS), []);
  const root = fileURLToPath(new URL("../", import.meta.url));
  const { code, stderr } = await new Deno.Command(Deno.execPath(), {
    args: ["task", "evidence", "--check"],
    cwd: root,
    stdout: "null",
  }).output();
  assert.equal(code, 0, new TextDecoder().decode(stderr));
});

/** Results of all variants, two seeds each, whose losses follow from a function. */
function experiments(lossOf: (variant: string, seed: number) => number): Experiments {
  const names = Object.keys(VARIANTS);
  return {
    ...{ format: "levin experiments 1", size: "tiny", steps: 10, seqLen: 64, batch: 2, device: "a device" },
    ...{
      date: "2026-11-25",
      commit: "",
      command: "deno task experiment",
      data: { sha256: "", train: 1, heldOut: 1 },
    },
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
  for (const { claim, find } of EXPERIMENT_CLAIMS) {
    const verdicts = [rising, falls, same].map((result) => find(result)!.verdict);
    assert(new Set(verdicts).size > 1, `always ${verdicts}: ${claim}`);
    assert.equal(find({ ...rising, runs: {} }), undefined);
    const one = Object.entries(rising.runs).filter(([name]) => name.endsWith(" 1"));
    assert.equal(
      find({ ...rising, runs: Object.fromEntries(one) }),
      undefined,
      `one seed is enough: ${claim}`,
    );
  }
  // "no-gate 1" is no seed of a model whose name is its beginning, nor is a run of the sweep one.
  const { runs } = same, sweep = { ...runs["tnl 1"], heldOutLoss: 99 };
  const found = EXPERIMENT_CLAIMS[0].find({ ...same, runs: { ...runs, "tnl sweep 0.001": sweep } })!;
  assert.equal(found.ours, EXPERIMENT_CLAIMS[0].find(same)!.ours);
});

Deno.test("the page has a section for each result, and lists what is open with its command", async () => {
  const result = experiments((variant, seed) =>
    1 + Object.keys(VARIANTS).indexOf(variant) / 100 + seed / 1000
  );
  const read = (which: Result) =>
    Promise.resolve(
      which.file.startsWith("docs/evidence/") && !which.file.endsWith("lengths.json")
        ? { ...result }
        : undefined,
    );
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
