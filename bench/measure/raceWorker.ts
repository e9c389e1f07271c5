/**
 * Levin as a racer: the worker that has its backend and model, and answers what the page asks.
 *
 * @module
 */
import { createBackend } from "../../mod.ts";
import { type Session, TransNormerLLM } from "../../model/mod.ts";
import { GENERATED, type LevinContestant, PREFILL, prompt, type Racer } from "./race.ts";

/** What the page may ask. */
export type Request =
  | { readonly ask: "start"; readonly contestant: LevinContestant }
  | { readonly ask: "prefill"; readonly seed: number }
  | { readonly ask: "decode"; readonly context: number };

/** What comes back: a speed, or how it failed. */
export type Response = { readonly speed: number } | { readonly error: string };

async function start({ weights, threads }: LevinContestant): Promise<Omit<Racer, "end">> {
  const backend = await createBackend({ prefer: "wasm", threads });
  const model = await TransNormerLLM.load(new URL("/levin/", location.href), { backend, weights });
  const read = new Map<number, Session>();
  return {
    async prefill(seed) {
      using session = model.session();
      const { first } = await timed(session, prompt(PREFILL, seed, 0), 1);
      return 1000 * PREFILL / first;
    },
    async decode(context) {
      const ids = prompt(context, context, 0);
      if (!read.has(context)) read.set(context, await reader(model, ids.slice(0, -1)));
      using session = read.get(context)!.fork();
      const { decoding } = await timed(session, ids.slice(-1), GENERATED);
      return 1000 * (GENERATED - 1) / decoding;
    },
  };
}

async function reader(model: TransNormerLLM, ids: readonly number[]): Promise<Session> {
  const session = model.session();
  using logits = session.prefill(ids);
  await logits.data();
  return session;
}

/** Milliseconds to the first token, and from there to the last. */
async function timed(
  session: Session,
  ids: readonly number[],
  tokens: number,
): Promise<{ first: number; decoding: number }> {
  const begin = performance.now();
  let first = 0, count = 0;
  for await (const _ of session.generate(ids, { maxTokens: tokens, temperature: 0 })) {
    if (count++ === 0) first = performance.now();
  }
  if (count !== tokens) throw new Error(`the model wrote ${count} of ${tokens} tokens`);
  return { first: first - begin, decoding: performance.now() - first };
}

let racer: Omit<Racer, "end"> | undefined;

async function answer(request: Request): Promise<number> {
  if (request.ask === "start") {
    racer = await start(request.contestant);
    return 0;
  }
  return request.ask === "prefill"
    ? await racer!.prefill(request.seed)
    : await racer!.decode(request.context);
}

/** The scope of a worker: the types here are those of a page. */
const scope = globalThis as unknown as {
  onmessage: (event: MessageEvent<Request>) => void;
  postMessage(response: Response): void;
};

scope.onmessage = async ({ data }) => {
  try {
    scope.postMessage({ speed: await answer(data) });
  } catch (error) {
    scope.postMessage({ error: String(error) });
  }
};
