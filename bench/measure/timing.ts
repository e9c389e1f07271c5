/**
 * Timing on a machine that others use too: medians, and ratios of measurements taken in turns.
 *
 * @module
 */

/** Seconds that are spent on a comparison at least, unless it takes so many turns before. */
const SPENT = 1, MOST_TURNS = 31;

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
 * that return reach the optimised code. So a short problem warms up what a long one then uses.
 */
export async function warmUp(run: () => unknown, duration = 0.3): Promise<void> {
  for (const end = performance.now() + 1000 * duration; performance.now() < end;) await run();
}

/**
 * What `run` takes compared with `yardstick`, measured in turns so that a slow moment of the machine meets both: medians of
 * the seconds of each, and of the yardstick's seconds for one of `run`.
 */
export async function inTurns(
  run: () => unknown,
  yardstick: () => unknown,
  { repeats = 9 }: { repeats?: number } = {}, // at least
): Promise<{ run: number; yardstick: number; ratio: number }> {
  const runs: number[] = [], yardsticks: number[] = [], ratios: number[] = [];
  // Short ones take more turns: a median of three moments on a busy machine would say little.
  const end = performance.now() + 1000 * SPENT;
  for (let i = 0; i < repeats || performance.now() < end && i < MOST_TURNS; i++) {
    const before = await seconds(yardstick);
    runs.push(await seconds(run));
    // Half before and half after: what changes in between counts for both.
    yardsticks.push((before + await seconds(yardstick)) / 2);
    ratios.push(yardsticks[i] / runs[i]);
  }
  return { run: median(runs), yardstick: median(yardsticks), ratio: median(ratios) };
}

/** Something to measure: as much of a case's shape as timing it needs. */
interface Runnable {
  run(): void | Promise<void>;
  finish?(): Promise<unknown>;
}

/** Shortest measurement: below it the clock, and a GPU's round trip, would be part of the result. */
const SHORTEST = 0.02;

/**
 * A function that runs a case often enough for one measurement, and waits for it, and how often that is. The case is
 * warm afterwards.
 */
export async function measurable(
  one: Runnable,
  { warmth = 0.3 }: { warmth?: number } = {},
): Promise<{ run: () => Promise<void>; times: number }> {
  const repeat = (times: number) => async () => {
    for (let i = 0; i < times; i++) await one.run();
    await one.finish?.();
  };
  await warmUp(repeat(1), warmth);
  let times = 1;
  for (let taken = 0; taken < SHORTEST && times < 2 ** 16;) {
    const run = repeat(times);
    taken = Math.min(await seconds(run), await seconds(run));
    if (taken < SHORTEST) times = Math.ceil(times * Math.min(10, Math.max(1.5, SHORTEST / taken)));
  }
  return { run: repeat(times), times };
}

/** Seconds of one run of a case: the median of `repeats` measurements. */
export async function secondsEach(
  one: Runnable,
  { repeats = 5 }: { repeats?: number } = {},
): Promise<number> {
  const { run, times } = await measurable(one);
  const found = [];
  for (let i = 0; i < repeats; i++) found.push(await seconds(run) / times);
  return median(found);
}

/** Two cases in turns: seconds of one run of the first, and how many runs it makes in the time of one of the second. */
export async function compare(
  one: Runnable,
  yardstick: Runnable,
  { repeats = 9 }: { repeats?: number } = {},
): Promise<{ seconds: number; ratio: number }> {
  const [first, second] = [await measurable(one), await measurable(yardstick)];
  const { run, ratio } = await inTurns(first.run, second.run, { repeats });
  return { seconds: run / first.times, ratio: ratio * first.times / second.times };
}
