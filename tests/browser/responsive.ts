/// <reference lib="dom" />
/**
 * The page of `responsive_test.ts`: uses the model of `examples/page`, and watches its own thread meanwhile. It tells
 * `/seen` what it saw, and judges nothing.
 *
 * @module
 */
import { RemoteModel } from "../../examples/page/remote.ts";

/** What the page saw. */
export interface Seen {
  readonly error?: string;
  readonly backend: string;
  readonly threads: number;
  /** What of WebAssembly this thread has used, in order; the last one is the page's own, to show that it would be seen. */
  readonly used: readonly string[];
  /** Turns of this thread's event loop between a long prompt and the first token of its answer. */
  readonly turnsOfPrefill: number;
  /** Frames that were drawn while answers were being written, and their tokens. */
  readonly framesOfDecode: number;
  readonly tokens: number;
  /** What the model wrote afterwards. */
  readonly text: string;
  /** Milliseconds between two frames at most: on a machine with other work mostly the machine's. */
  readonly longest: number;
}

/** Frames for which an answer is awaited. */
const FRAMES = 20;

/** Notes whoever touches WebAssembly on this thread. */
function watch(): string[] {
  const used: string[] = [];
  const names = ["validate", "compile", "instantiate", "Module", "Instance", "Memory"] as const;
  for (const name of names) {
    const note = () => void used.push(name);
    // deno-lint-ignore no-explicit-any -- functions and classes alike
    (WebAssembly as any)[name] = new Proxy(WebAssembly[name] as any, {
      apply: (target, self, args) => (note(), Reflect.apply(target, self, args)),
      construct: (target, args) => (note(), Reflect.construct(target, args)),
    });
  }
  return used;
}

async function see(): Promise<Seen> {
  const used = watch();
  using model = await RemoteModel.load("/worker.js", new URL("/model/", location.href), { threads: 2 });

  let frames = 0, last = performance.now(), longest = 0;
  requestAnimationFrame(function frame() {
    const now = performance.now();
    longest = Math.max(longest, now - last);
    last = now;
    frames++;
    requestAnimationFrame(frame);
  });
  let turns = 0;
  const { port1, port2 } = new MessageChannel();
  port1.onmessage = () => {
    turns++;
    port2.postMessage(null);
  };
  port2.postMessage(null);

  const prompt = "The state of the Union is strong, and the people of the country know it. ".repeat(200);
  const before = turns;
  let turnsOfPrefill = 0;
  for await (const _ of model.generate(prompt, { maxTokens: 1, temperature: 0 })) {
    turnsOfPrefill = turns - before;
  }

  let tokens = 0, framesOfDecode = 0;
  const start = frames;
  // An answer may end before its time: another one follows.
  for (let seed = 0; framesOfDecode < FRAMES; seed++) {
    for await (const _ of model.generate("The state", { maxTokens: 10_000, seed })) {
      tokens++;
      framesOfDecode = frames - start;
      if (framesOfDecode >= FRAMES) break;
    }
  }

  // The worker has heard that the loop was left.
  let text = "";
  for await (const piece of model.generate("The state", { maxTokens: 16, temperature: 0 })) text += piece;
  port1.close();
  WebAssembly.validate(new Uint8Array(0));
  const { backend, threads } = model;
  return { backend, threads, used, turnsOfPrefill, framesOfDecode, tokens, text, longest };
}

const seen = await see().catch((error) => ({ error: String(error) }));
await fetch("/seen", { method: "POST", body: JSON.stringify(seen) });
