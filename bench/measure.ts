/**
 * Timing on a machine that others use too: medians, and ratios of measurements taken in turns.
 *
 * @module
 */

/** The middle value; of an even number of values the upper middle. */
export function median(values: readonly number[]): number {
  return values.toSorted((a, b) => a - b)[values.length >> 1];
}

/** Seconds that a call takes. */
export async function seconds(run: () => unknown): Promise<number> {
  const start = performance.now();
  await run();
  return (performance.now() - start) / 1000;
}

/**
 * Runs again and again for at least `duration` seconds. WebAssembly begins in a baseline compiler, and only calls
 * that return reach the optimised code, so a short problem warms up what a long one then uses.
 */
export async function warmUp(run: () => unknown, duration = 0.3): Promise<void> {
  for (const end = performance.now() + 1000 * duration; performance.now() < end;) await run();
}

/**
 * What `run` takes beside `yardstick`, measured in turns so that a slow moment of the machine meets both: medians of
 * the seconds of `run` and of the yardstick's seconds for each of its own.
 */
export async function beside(
  run: () => unknown,
  yardstick: () => unknown,
  { repeats = 9 }: { repeats?: number } = {},
): Promise<{ run: number; yardstick: number; ratio: number }> {
  const runs: number[] = [], yardsticks: number[] = [], ratios: number[] = [];
  for (let i = 0; i < repeats; i++) {
    const before = await seconds(yardstick);
    runs.push(await seconds(run));
    // Half before and half after: what changes in between counts for both.
    yardsticks.push((before + await seconds(yardstick)) / 2);
    ratios.push(yardsticks[i] / runs[i]);
  }
  return { run: median(runs), yardstick: median(yardsticks), ratio: median(ratios) };
}
