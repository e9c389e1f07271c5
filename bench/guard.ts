/**
 * Gives alarm when a goal of `goals.ts` is missed by far. Ratios with wide margins: it needs no quiet machine. Run it
 * before a release; not for CI.
 *
 *     deno task bench:guard
 *
 * @module
 */
import { cli, command } from "../cli/mod.ts";
import { GOALS } from "./report/goals.ts";
import { keeps } from "./report/results.ts";

/** Measurements of each. */
const REPEATS = 5;

await cli(command("bench:guard", "Fails where speed has fallen far behind a goal.").action(guard));

async function guard(): Promise<void> {
  const regressed: string[] = [];
  for (const { what, unit, goal, most, alarm, measure } of GOALS) {
    if (alarm === undefined) continue;
    let value = await measure(REPEATS);
    // Another's burst of work is no regression: an alarm must ring twice.
    if (!keeps(value, alarm, most)) value = await measure(REPEATS);
    const sign = most ? "<=" : ">=";
    const good = keeps(value, alarm, most);
    console.log(
      `${good ? "✓" : "✗"} ${what}: ${
        value.toFixed(2)
      } ${unit} (alarm unless ${sign} ${alarm}, goal ${goal})`,
    );
    if (!good) regressed.push(`${what}: ${value.toFixed(2)} ${unit} is not ${sign} ${alarm} ${unit}`);
  }
  if (regressed.length > 0) console.error(`\nRegressed:\n  ${regressed.join("\n  ")}`);
  Deno.exit(regressed.length > 0 ? 1 : 0);
}
