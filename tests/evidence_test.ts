/** Evidence: verdicts follow from figures, and the page from results. */
import assert from "node:assert/strict";
import { fileURLToPath } from "node:url";
import { CLAIMS, constant, falling, missingResults, reaching, readResult } from "../bench/report/evidence.ts";

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

Deno.test("no result is missing, and docs/evidence.md is what they say", async () => {
  assert.deepEqual(await missingResults(), []);
  const root = fileURLToPath(new URL("../", import.meta.url));
  const { code, stderr } = await new Deno.Command(Deno.execPath(), {
    args: ["task", "evidence", "--check"],
    cwd: root,
    stdout: "null",
  }).output();
  assert.equal(code, 0, new TextDecoder().decode(stderr));
});
