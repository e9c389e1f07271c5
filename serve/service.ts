/**
 * What the routes of one handler share: the model once it is loaded, limits, metrics and sessions.
 *
 * @module
 */
import { elementCount } from "../core/shape.ts";
import type { TransNormerLLM } from "../model/mod.ts";
import { stateShapes } from "../model/transnormer.ts";
import { ApiError, report } from "./errors.ts";
import { BodyRoom } from "./body.ts";
import type { Limits } from "./limits.ts";
import { Metrics } from "./metrics.ts";
import { Allowance } from "./rates.ts";
import { Scheduler } from "./scheduler.ts";
import { Sessions } from "./sessions.ts";
import type { SessionStore } from "./stores/store.ts";
import type { SessionStorage } from "./stores/unstorage.ts";
import { Texts } from "./texts.ts";

/** What middleware tells the routes about a request. */
export interface Env {
  Variables: {
    /** Whose sessions the request may use. */
    owner: string;
    /** The room of the request's body, once it is read. */
    body: Disposable;
  };
}

/** A model that answers. */
export interface Engine {
  /** The model. */
  readonly model: TransNormerLLM;
  /** Shares it. */
  readonly scheduler: Scheduler;
  /** Its texts; undefined if it has no tokenizer. */
  readonly texts: Texts | undefined;
  /** What each owner may read and write per minute. */
  readonly tokenRate: Allowance;
  /** What it may be used for. */
  readonly limits: Limits;
  /** What is counted. */
  readonly metrics: Metrics;
  /** Bytes of the state of one session. */
  readonly stateBytes: number;
}

/** What the routes share. */
export class Service {
  /** What clients call the model. */
  readonly name: string;
  /** Where the model was loaded from, if clients may load it too. */
  readonly checkpoint: string | URL | undefined;
  /** Makes a text of a chat, in place of the template that the tokenizer brings. */
  readonly chatTemplate: string | undefined;
  /** See {@linkcode Limits}. */
  readonly limits: Limits;
  /** What is counted. */
  readonly metrics: Metrics = new Metrics();
  /** What each owner may ask for per minute. */
  readonly requestRate: Allowance;
  /** Room for bodies. */
  readonly bodies: BodyRoom;
  /** All sessions of all owners. */
  readonly sessions: Sessions;
  /** Seconds from 1970 to the start of the service. */
  readonly created: number = Math.floor(Date.now() / 1000);
  readonly #engine: Promise<Engine>;
  #ready: Engine | undefined;
  #failed = false;
  /** Answers in flight. */
  #answering = 0;
  /** Called when the last of them ends; set once the service takes no more. */
  #drained: (() => void) | undefined;

  /** A service whose model may still be loading. */
  constructor(options: {
    name: string;
    model: TransNormerLLM | Promise<TransNormerLLM>;
    checkpoint: string | URL | undefined;
    chatTemplate: string | undefined;
    limits: Limits;
    storage: SessionStore | SessionStorage | undefined;
    sessionSecret: string | undefined;
    untrusted: boolean | undefined;
  }) {
    this.name = options.name;
    this.checkpoint = options.checkpoint;
    this.chatTemplate = options.chatTemplate;
    this.limits = options.limits;
    this.requestRate = new Allowance(options.limits.keyRequestsPerMinute, "requests");
    this.bodies = new BodyRoom(options.limits);
    this.sessions = new Sessions(options.storage, {
      ...options.limits,
      secret: options.sessionSecret,
      onQuarantine: () => this.metrics.quarantined.add(),
      onEviction: () => this.metrics.evicted.add(),
    });
    this.#engine = this.#start(options.model, options.untrusted);
    this.#engine.catch(() => {}); // those who wait for it get the error
    this.#addGauges();
  }

  /**
   * The engine once the model is loaded; rejected with an {@linkcode ApiError} when it cannot be, and when that takes
   * longer than a request may. A load can die without a word: an edge isolate ends it with the request that began it.
   */
  get engine(): Promise<Engine> {
    if (this.#ready !== undefined || this.#failed) return this.#engine;
    return new Promise((resolve, reject) => {
      const late = new ApiError(503, "The model is still loading", { code: "model_loading", retryAfter: 5 });
      const timer = setTimeout(() => reject(late), 1000 * this.limits.seconds);
      this.#engine.then(resolve, reject).finally(() => clearTimeout(timer));
    });
  }

  /** Whether the service can answer now, and if not, why. */
  get status(): "ready" | "loading" | "failed" | "full" | "stopping" {
    if (this.#drained !== undefined) return "stopping";
    if (this.#failed) return "failed";
    if (this.#ready === undefined) return "loading";
    return this.#ready.scheduler.load.waiting >= this.limits.queue ? "full" : "ready";
  }

  /**
   * Counts an answer until it is disposed.
   *
   * @throws {ApiError} 503 when the service takes no more
   */
  admit(): Disposable {
    if (this.#drained !== undefined) {
      throw new ApiError(503, "The server is going down", { code: "shutting_down", retryAfter: 1 });
    }
    this.#answering++;
    return {
      [Symbol.dispose]: () => {
        if (--this.#answering === 0) this.#drained?.();
      },
    };
  }

  /** The number of answers in flight. */
  get answering(): number {
    return this.#answering;
  }

  /** Takes no more answers; resolves when those in flight have ended. */
  drain(): Promise<void> {
    return new Promise((resolve) => {
      this.#drained = resolve;
      if (this.#answering === 0) resolve();
    });
  }

  /** Ends all work. */
  async close(): Promise<void> {
    await this.#ready?.scheduler.dispose();
    await this.#ready?.texts?.close();
  }

  async #start(
    loading: TransNormerLLM | Promise<TransNormerLLM>,
    untrusted: boolean | undefined,
  ): Promise<Engine> {
    const { limits, metrics } = this;
    try {
      const model = await loading;
      const stateBytes = stateShapes(model.config, 1)
        .reduce((sum, shape) => sum + 4 * elementCount(shape), 0);
      return this.#ready = {
        model,
        scheduler: new Scheduler(model, limits, metrics, stateBytes),
        tokenRate: new Allowance(limits.keyTokensPerMinute, "tokens"),
        texts: model.tokenizer && new Texts(model.tokenizer, { untrusted }),
        limits,
        metrics,
        stateBytes,
      };
    } catch (error) {
      this.#failed = true;
      report(error);
      throw new ApiError(503, "The model could not be loaded", { code: "model_not_loaded" });
    }
  }

  #addGauges(): void {
    const gauge = (name: string, help: string, read: (engine: Engine) => number) =>
      this.metrics.gauge(name, help, () => this.#ready === undefined ? 0 : read(this.#ready));
    this.metrics.gauge("levin_sessions", "Sessions that are stored.", () => this.sessions.stored.sessions);
    this.metrics.gauge("levin_sessions_bytes", "Bytes of stored sessions.", () => this.sessions.stored.bytes);
    gauge("levin_waiting", "Prompts that wait.", ({ scheduler }) => scheduler.load.waiting);
    gauge("levin_reading", "Prompts that are being read.", ({ scheduler }) => scheduler.load.reading);
    gauge("levin_writing", "Answers that are being written.", ({ scheduler }) => scheduler.load.writing);
    gauge(
      "levin_prefix_bytes",
      "Bytes of states that are kept for prompts that begin alike.",
      ({ scheduler }) => scheduler.prefixBytes,
    );
    gauge("levin_state_bytes", "Bytes of the state of one session.", ({ stateBytes }) => stateBytes);
    gauge(
      "levin_backend_bytes",
      "Bytes that model and states hold.",
      ({ model }) => model.backend.bytesInUse,
    );
  }
}
