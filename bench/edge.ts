/**
 * Cold start of the edge function with the shipped model, to its first token: writes `docs/benchmarks/edge.json` and from
 * it the page.
 *
 *     deno task bench:edge
 *
 * @module
 */
import { cli, command } from "../cli/mod.ts";
import { bucket, fileOf, firstToken, isolate } from "../tests/edge_function.ts";
import { commit, type EdgeReport, keep, machine } from "./report/results.ts";

const MODEL = new URL("../models/sotu/", import.meta.url);
const STARTS = 15;

/** MiB that a process held at most; Linux only. */
export async function residentAtMost({ pid }: Deno.ChildProcess): Promise<number> {
  const status = await Deno.readTextFile(`/proc/${pid}/status`);
  return Number(/VmHWM:\s+(\d+)/.exec(status)![1]) / 1024;
}

async function main(): Promise<void> {
  const server = bucket((name) => fileOf(MODEL, name));
  const times: number[] = [], resident: number[] = [];
  for (let start = -1; start < STARTS; start++) {
    await using edge = await isolate(server.addr.port);
    const time = await firstToken(edge);
    if (start < 0) continue; // compiles what Deno's cache then holds, as after any first start
    times.push(time);
    resident.push(await residentAtMost(edge.process));
    console.log(`cold start to first token ${time.toFixed(0)} ms`);
  }
  await server.shutdown();
  const report: EdgeReport = {
    machine: machine(),
    date: new Date().toISOString().slice(0, 10),
    commit: await commit(),
    versions: { deno: Deno.version.deno, v8: Deno.version.v8 },
    command: "deno task bench:edge",
    firstToken: times,
    resident,
  };
  await keep("edge.json", report);
  await (await import("./report/page.ts")).render(); // with what draws the plots, which the tests do not need
}

if (import.meta.main) {
  await cli(
    command("bench:edge", "Cold start of the edge function with the shipped model, for docs/benchmarks.md.")
      .action(main),
  );
}
