/**
 * Run by `attack.ts` as another process: the server, which also tells how long its event loop was held, and by what.
 *
 * A timer is due every few milliseconds. When it comes late, something held the loop, or the thread had no processor: on a
 * machine whose cores are shared with the attackers both happen. The kernel counts what the thread itself computed
 * meanwhile; from that, what the model's own steps took is subtracted.
 *
 * For each line on stdin it prints `lag <line> <JSON>`, see {@linkcode Lag}, and begins anew.
 *
 * @module
 */
import { Batch } from "../model/batch.ts";
import { Session } from "../model/session.ts";

/** Milliseconds, the longest of each since the last line. */
export interface Lag {
  /** From one turn of the loop to the next. */
  readonly turn: number;
  /** What the thread computed in a turn, without the model's steps. */
  readonly held: number;
  /** What the model's steps computed in a turn. */
  readonly model: number;
}

/** Milliseconds between two looks. */
const TICK = 4;

/** Milliseconds that this thread has computed. */
function computed(): number {
  return Number(Deno.readTextFileSync("/proc/self/schedstat").split(" ")[0]) / 1e6;
}

let ofModel = 0;
/** Counts what a method computes, once where it calls others of these. */
function count(prototype: object, name: string): void {
  const methods = prototype as Record<string, (...args: unknown[]) => unknown>, method = methods[name];
  methods[name] = function (...args) {
    const start = computed(), before = ofModel;
    try {
      return method.apply(this, args);
    } finally {
      ofModel = before + computed() - start;
    }
  };
}
count(Batch.prototype, "step");
count(Session.prototype, "prefill");

let turn = 0, held = 0, model = 0;
let last = { time: performance.now(), computed: computed(), ofModel };
setInterval(() => {
  const now = { time: performance.now(), computed: computed(), ofModel };
  const steps = now.ofModel - last.ofModel;
  turn = Math.max(turn, now.time - last.time);
  held = Math.max(held, now.computed - last.computed - steps);
  model = Math.max(model, steps);
  last = now;
}, TICK);

/** Answers the lines on stdin. */
async function answer(): Promise<void> {
  for await (const line of Deno.stdin.readable.pipeThrough(new TextDecoderStream())) {
    const lag: Lag = { turn, held, model };
    console.log(`lag ${line.trim()} ${JSON.stringify(lag)}`);
    turn = held = model = 0;
  }
}
void answer();

await import("../serve/main.ts");
