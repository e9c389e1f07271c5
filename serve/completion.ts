/**
 * A request as jobs of the scheduler: from token ids to answers, and from a stored session to the next one.
 *
 * @module
 */
import type { Session, TransNormerLLM } from "../model/mod.ts";
import { Answer, type Part, type PartSink, PromptEntries } from "./answer.ts";
import { ApiError, invalid } from "./errors.ts";
import { type Limits, shareOf } from "./limits.ts";
import { contextOf } from "./metrics.ts";
import type { Prompt } from "./prompts.ts";
import type { Job } from "./scheduler.ts";
import type { Generation } from "./schema.ts";
import type { Engine } from "./service.ts";
import type { Lease, StoredSession } from "./sessions.ts";

/** What is asked for, checked. */
export interface Completion {
  /** Whose request it is. */
  readonly owner: string;
  /** Sampling and stop strings. */
  readonly options: Generation;
  /** One or more. */
  readonly prompts: readonly Prompt[];
  /** 0: only read the prompts. */
  readonly maxTokens: number;
  /** Whether the prompt stands before the answer. */
  readonly echo: boolean;
  /** Number of alternatives to name; undefined: no log-probabilities. */
  readonly logprobs: number | undefined;
  /** Whether an end-of-sequence token becomes part of the session. */
  readonly keepEnd: boolean;
  /** The session to continue. */
  readonly lease: Lease | undefined;
  /** What is stored of it. */
  readonly stored: StoredSession | undefined;
}

/** How a request ended. */
export interface Outcome {
  /** Tokens of the prompts. */
  readonly promptTokens: number;
  /** Tokens that were generated, end-of-sequence tokens included. */
  readonly completionTokens: number;
  /** The session as it is stored now. */
  readonly session:
    | { readonly id: string; readonly tokens: number; readonly state_bytes: number }
    | undefined;
}

/**
 * Begins a request.
 *
 * @param sink gets the parts of all answers, in order for each answer. With a session the last part comes when the
 * session is stored: what a client has seen the end of is never lost
 * @param signal ends the work within a step
 * @returns how it ended; the session may then be released
 * @throws {ApiError} immediately, if the request cannot begin
 */
export function begin(
  engine: Engine,
  completion: Completion,
  sink: PartSink,
  signal: AbortSignal,
): Promise<Outcome> {
  const { model, scheduler, limits, metrics, tokenRate } = engine;
  const { owner, options, prompts, maxTokens, echo, logprobs, lease, stored } = completion;
  checkSize(limits, completion);
  const session = stored === undefined ? undefined : restore(model, stored.snapshot);
  const arrived = performance.now();
  const usage = { promptTokens: 0, completionTokens: 0 };
  const answers: Answer[] = [];
  const openings: (() => void)[] = []; // the echo of each choice
  const endings: Part[] = []; // held back until the session is stored

  const idsOf = (prompt: Prompt): Uint32Array => {
    const pending = stored?.pending ?? [];
    if (pending.length === 0) return prompt.ids;
    const ids = new Uint32Array(pending.length + prompt.ids.length);
    ids.set(pending);
    ids.set(prompt.ids, pending.length);
    return ids;
  };
  const newAnswer = (ids: Uint32Array, prompt: Prompt, index: number, seed: number | undefined) => {
    let last: number | undefined, context = (session?.position ?? 0) + ids.length;
    return new Answer(model, ids, {
      index,
      maxTokens,
      temperature: options.temperature,
      topK: options.top_k,
      topP: options.top_p,
      minP: options.min_p,
      repetitionPenalty: options.repetition_penalty,
      seed,
      stop: options.stop,
      before: session?.recent ?? [],
      logprobs,
      keepEnd: completion.keepEnd,
      end: lease?.finish,
      offset: echo ? prompt.text.length : 0,
      isBlocked: () => sink.isFull,
    }, (part) => {
      const now = performance.now();
      if (last === undefined) openings[index]();
      const labels = contextOf(context);
      (last === undefined ? metrics.firstToken : metrics.perToken)
        .observe((now - (last ?? arrived)) / 1000, labels);
      last = now;
      context += part.tokens;
      usage.completionTokens += part.tokens;
      metrics.completionTokens.add(part.tokens, labels);
      if (part.finish !== undefined && lease !== undefined) endings.push(part);
      else sink.push(part);
    });
  };

  const newJob = (prompt: Prompt, p: number): Job => {
    const ids = idsOf(prompt);
    if (ids.length === 0) throw invalid("prompt", "prompt: must hold at least one token");
    const outside = ids.find((id) => id >= model.config.vocabSize);
    if (outside !== undefined) {
      throw invalid("prompt", `prompt: token ids must be below ${model.config.vocabSize}, not ${outside}`);
    }
    usage.promptTokens += prompt.ids.length;
    const scored = echo && logprobs !== undefined
      ? new PromptEntries(model, ids, prompt.text, logprobs)
      : undefined;
    const branches: Answer[] = [];
    for (let i = 0; i < options.n; i++) {
      const index = p * options.n + i;
      openings[index] = () => {
        if (echo) sink.push({ index, text: prompt.text, entries: scored?.entries ?? [], tokens: 0 });
      };
      if (maxTokens === 0) endings.push({ index, text: "", entries: [], tokens: 0, finish: "length" });
      // Choices of one seed must differ from one another.
      else {branches.push(
          newAnswer(ids, prompt, index, options.seed === undefined ? undefined : options.seed + i),
        );}
    }
    answers.push(...branches);
    // Without an answer the last token of a session stays unread, so that it can continue without a new prompt.
    const read = branches.length > 0 ? ids : lease ? ids.subarray(0, -1) : scored ? ids : new Uint32Array();
    return {
      owner,
      prompt: read,
      session,
      branches,
      onPrompt: scored && ((logits, start) => scored.take(logits, start)),
      keep: lease !== undefined,
      signal,
      tokens: options.n * (ids.length + maxTokens),
    };
  };

  const finish = async (ends: readonly Promise<Session | undefined>[]): Promise<Outcome> => {
    const [kept] = await settle(ends);
    const pending = answers.length > 0 ? answers[0].pending : [...idsOf(prompts[0]).slice(-1)];
    const saved = lease && kept && await save(engine, options.session!, lease, kept, pending);
    for (const part of endings) {
      if (maxTokens === 0) openings[part.index]();
      sink.push(part);
    }
    return { ...usage, session: saved };
  };

  try {
    const jobs = prompts.map(newJob);
    const tokens = jobs.reduce((sum, job) => sum + job.tokens, 0);
    tokenRate.take(owner, tokens);
    let ends: Promise<Session | undefined>[];
    try {
      ends = scheduler.enqueue(jobs);
    } catch (error) {
      tokenRate.giveBack(owner, tokens);
      throw error;
    }
    return finish(ends)
      .catch((error) => {
        // Logits without a likeliest token, which a session's state brought about: its numbers are NaN.
        throw session !== undefined && error instanceof RangeError ? damaged() : error;
      })
      .finally(() => {
        session?.dispose();
        // Counted beforehand was all that it might have written.
        tokenRate.giveBack(owner, options.n * prompts.length * maxTokens - usage.completionTokens);
      });
  } catch (error) {
    session?.dispose();
    throw error;
  }
}

/** Checks what depends on all prompts together. */
function checkSize(limits: Limits, { options, prompts, maxTokens, echo, logprobs, lease }: Completion): void {
  const choices = prompts.length * options.n;
  if (choices > limits.choices || options.n > shareOf(limits.batch, limits)) {
    throw invalid(
      "n",
      `n: prompts times n must be at most ${limits.choices}, and n at most ${shareOf(limits.batch, limits)}`,
    );
  }
  // Each choice looks at all of its prompt.
  const read = options.n * prompts.reduce((sum, { ids }) => sum + ids.length, 0);
  const tokens = read + choices * maxTokens;
  if (tokens > limits.requestTokens) {
    throw invalid(
      "prompt",
      `prompt: prompts and answers must be at most ${limits.requestTokens} tokens, not ${tokens}`,
      "context_length_exceeded",
    );
  }
  // A scored token costs as much as its alternatives.
  const entries = logprobs === undefined ? 0 : (1 + logprobs) * (echo ? tokens : choices * maxTokens);
  if (entries > limits.scores) {
    throw invalid(
      "logprobs",
      `logprobs: tokens and their alternatives must be at most ${limits.scores}, not ${entries}`,
    );
  }
  if (lease === undefined) return;
  if (choices !== 1) throw invalid("session", "session: needs one prompt and n 1");
  if (echo) throw invalid("echo", "echo: a session has only the text of its last request");
}

function restore(model: TransNormerLLM, snapshot: Uint8Array): Session {
  try {
    return model.restore(snapshot);
  } catch (error) {
    if (!(error instanceof RangeError)) throw error;
    throw new ApiError(409, "The session is of another model, or of another version of the server", {
      param: "session",
      code: "session_incompatible",
    });
  }
}

function damaged(): ApiError {
  return new ApiError(409, "The session's state is damaged: delete it and begin a new one", {
    param: "session",
    code: "session_damaged",
  });
}

/** Waits until all have ended, then throws the first failure, if any. */
async function settle<T>(ends: readonly Promise<T>[]): Promise<T[]> {
  const results = await Promise.allSettled(ends);
  return results.map((result) => {
    if (result.status === "rejected") throw result.reason;
    return result.value;
  });
}

async function save(
  { metrics, stateBytes }: Engine,
  id: string,
  lease: Lease,
  session: Session,
  pending: readonly number[],
): Promise<Outcome["session"]> {
  using kept = session;
  const tokens = kept.position + pending.length;
  await lease.save({ snapshot: await kept.snapshot(), pending, tokens });
  metrics.sessionWrites.add();
  return { id, tokens, state_bytes: stateBytes };
}
