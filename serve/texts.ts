/**
 * Tokens of texts, texts of tokens and of chats, so that nobody else waits: long ones are made in a worker, one after
 * another, the owners in turns. A worker that takes too much time or memory is ended, and a new one takes its place.
 *
 * A tokenizer and a chat template come with a model, from whoever made it. For models that are not trusted all texts go
 * to the worker, short ones too. Only single tokens of answers are decoded in the server's thread:
 * {@linkcode tryTokenizer} finds out beforehand that this ends for each of them.
 *
 * @module
 */
import type { Worker } from "node:worker_threads";
import { builtin } from "../core/builtin.ts";
import type { Tokenizer } from "../model/mod.ts";
import { ApiError, invalid, templateRefusal } from "./errors.ts";
import { FairQueue } from "./fairQueue.ts";
import { type TextResult, type TextTask, workOn } from "./textWork.ts";

/** Texts up to so many characters, and that many ids, take few milliseconds: a worker is not asked for them. */
const SHORT = 2048;
/** Seconds for one piece of work, and for the start of a worker with its tokenizer. */
const SECONDS = 10, START_SECONDS = 30;
/** MiB of memory of a worker, and bytes more for each byte of its files. */
const MEBIBYTES = 128, PER_BYTE = 32;

/** The worker lies next to this module, or to the bundle that this module is in. */
const EXTENSION = import.meta.url?.endsWith(".ts") ? "ts" : "js"; // workerd has no URL of modules

/** Options of {@linkcode Texts}. */
export interface TextsOptions {
  /** Whether everything goes to the worker, as tokenizer and template are somebody else's. Default false. */
  readonly untrusted?: boolean;
  /** Seconds that one piece of work may take. Default 10. */
  readonly seconds?: number;
}

interface Waiting {
  readonly owner: string;
  readonly task: TextTask;
  readonly resolve: (result: TextResult) => void;
  readonly reject: (reason: unknown) => void;
}

/** Makes texts and tokens. */
export class Texts {
  readonly #tokenizer: Tokenizer;
  readonly #isUntrusted: boolean;
  readonly #seconds: number;
  readonly #waiting = new FairQueue<Waiting>();
  #worker: TextWorker | undefined;
  /** The host has no workers, or does not let the process start one. */
  #hasNone = false;
  #isWorking = false;
  #isClosed = false;

  /** For one tokenizer. */
  constructor(tokenizer: Tokenizer, { untrusted = false, seconds = SECONDS }: TextsOptions = {}) {
    this.#seconds = seconds;
    this.#tokenizer = tokenizer;
    this.#isUntrusted = untrusted;
  }

  /** Token ids of a text. Throws an `ApiError` if the tokenizer has no token for a part of it. */
  async encode(owner: string, text: string, addSpecialTokens: boolean): Promise<Uint32Array<ArrayBuffer>> {
    const result = await this.#do(owner, { kind: "encode", text, addSpecialTokens }, text.length);
    if ("ids" in result) return result.ids;
    throw invalid("prompt", "prompt: the tokenizer has no token for a part of it");
  }

  /** The text of token ids, with the names of special tokens. */
  async decode(owner: string, ids: Uint32Array): Promise<string> {
    // In pieces with pauses, where the tokenizer is trusted.
    const result = await this.#do(owner, { kind: "decode", ids }, 0);
    return (result as { text: string }).text;
  }

  /**
   * A chat as text. Throws an `ApiError` if its template refuses it, or takes too much.
   *
   * @param length of all that goes into it, in characters
   */
  async render(
    owner: string,
    template: string,
    variables: Record<string, unknown>,
    length: number,
  ): Promise<string> {
    const result = await this.#do(owner, { kind: "render", template, variables }, length);
    if ("text" in result) return result.text;
    if ("code" in result && result.code === "template_budget") throw overBudget(result.message);
    throw templateRefusal((result as { message: string }).message);
  }

  /** Ends the worker; what is left to do is rejected. */
  async close(): Promise<void> {
    this.#isClosed = true;
    this.#waiting.remove(({ reject }) => {
      reject(new ApiError(503, "The server is going down", { code: "shutting_down" }));
      return true;
    });
    await this.#worker?.end();
  }

  async #do(owner: string, task: TextTask, length: number): Promise<TextResult> {
    const isShort = !this.#isUntrusted && length <= SHORT;
    if (isShort || this.#hasNone) return await workOn(this.#tokenizer, task);
    return await new Promise((resolve, reject) => {
      this.#waiting.push(owner, { owner, task, resolve, reject });
      void this.#work();
    });
  }

  async #work(): Promise<void> {
    if (this.#isWorking) return;
    this.#isWorking = true;
    for (let next; !this.#isClosed && (next = this.#waiting.shift()) !== undefined;) {
      try {
        next.resolve(await this.#inWorker(next.task));
      } catch (error) {
        next.reject(error);
      }
    }
    this.#isWorking = false;
  }

  async #inWorker(task: TextTask): Promise<TextResult> {
    if (this.#worker === undefined || this.#worker.hasEnded) {
      try {
        this.#worker = await TextWorker.start(this.#tokenizer.json, this.#tokenizer.config);
      } catch (error) {
        if (this.#isUntrusted) throw error;
        this.#hasNone = true;
      }
    }
    return this.#hasNone ? await workOn(this.#tokenizer, task) : await this.#worker!.ask(task, this.#seconds);
  }
}

function overBudget(message: string): ApiError {
  return new ApiError(500, message, { code: "model_budget" });
}

/** A thread with a tokenizer. */
class TextWorker {
  readonly #worker: Worker;
  /** Whether it can do no more. */
  hasEnded = false;
  #settle: (settled: { result?: unknown; error?: Error }) => void = () => {};

  private constructor(worker: Worker) {
    this.#worker = worker;
    worker.on("message", (result: unknown) => this.#settle({ result }));
    const fail = (error: Error) => {
      this.hasEnded = true;
      this.#settle({ error });
    };
    worker.on("error", fail);
    worker.on("exit", () => fail(new Error("The worker has ended")));
  }

  /** Starts a worker. @throws {Error} when the host has none, or the tokenizer cannot be made within the budget */
  static async start(json: unknown, config: unknown, seconds = START_SECONDS): Promise<TextWorker> {
    const threads = builtin("node:worker_threads") as typeof import("node:worker_threads") | undefined;
    if (threads === undefined) throw new Error("The host has no workers");
    const workerData = new TextEncoder().encode(JSON.stringify({ json, config }));
    const worker = new TextWorker(
      new threads.Worker(new URL(`./textWorker.${EXTENSION}`, import.meta.url), {
        workerData,
        resourceLimits: {
          maxOldGenerationSizeMb: MEBIBYTES + Math.ceil(PER_BYTE * workerData.length / 2 ** 20),
        },
      }),
    );
    worker.#worker.unref();
    try {
      await worker.#within(seconds);
    } catch (error) {
      await worker.end();
      throw error;
    }
    return worker;
  }

  async ask(task: TextTask, seconds: number): Promise<TextResult> {
    return await this.#within(seconds, task) as TextResult;
  }

  async end(): Promise<void> {
    this.hasEnded = true;
    await this.#worker.terminate();
  }

  /** The next message, or the end of the worker. */
  async #within(seconds: number, task?: TextTask): Promise<unknown> {
    let timer: ReturnType<typeof setTimeout> | undefined;
    const { result, error } = await new Promise<{ result?: unknown; error?: Error }>((resolve) => {
      this.#settle = resolve;
      timer = setTimeout(() => resolve({ error: new Error(`more than ${seconds} s`) }), 1000 * seconds);
      if (task !== undefined) this.#worker.postMessage(task);
    });
    clearTimeout(timer);
    this.#settle = () => {};
    if (error !== undefined) {
      void this.end().catch(() => {});
      if (/^(Uncaught .*)?(Cannot find module|Module not found)/.test(error.message)) {
        throw new Error("The program was bundled without the worker's script", { cause: error });
      }
      throw overBudget(
        `The model's tokenizer or chat template takes too much: it was ended (${error.message})`,
      );
    }
    const { failure } = result as { failure?: string };
    if (failure !== undefined) throw new Error(failure);
    return result;
  }
}

/**
 * Makes a tokenizer in a worker, and decodes each of its tokens once, under a budget of time and memory: what a server's
 * thread may then do itself. Files that describe no tokenizer pass: whoever makes it says what is wrong.
 *
 * @throws {Error} when the files do not keep within the budget
 */
export async function tryTokenizer(json: unknown, config: unknown, seconds = START_SECONDS): Promise<void> {
  let worker: TextWorker | undefined;
  try {
    worker = await TextWorker.start(json, config, seconds);
    await worker.ask({ kind: "try" }, seconds);
  } catch (error) {
    if (error instanceof ApiError) throw new Error(`Cannot use the model: ${error.message}`);
  } finally {
    await worker?.end();
  }
}
