/**
 * One model on the hub, by the hub's own client: its commit, its files, and their bytes.
 *
 * @module
 */
import type { ListFileEntry } from "@huggingface/hub";
import { rangeError } from "../../core/errors.ts";
import { follow } from "../redirects.ts";
import type { HubId } from "./id.ts";
import { hubClient } from "./packages.ts";
import type { HubSettings } from "./settings.ts";

const OPERATION = "TransNormerLLM.load";

/** A file of a commit. */
export interface HubFile {
  readonly name: string;
  /** In bytes. */
  readonly size: number;
  /** What the hub names its content by, and the cache its blob. */
  readonly oid: string;
  /** What `oid` is: SHA-256 of the bytes (LFS), or git's SHA-1 of a blob. */
  readonly algorithm: "sha256" | "sha1";
}

/** The hub cannot be asked, or its answer breaks off: trying again may help, or the cache. */
export class Unreachable extends Error {}

/** How long the hub may keep silent, in milliseconds. */
const PATIENCE = 10_000;

/** Of one answer in JSON in bytes, and of the files of a model and the answers that list them. */
const JSON_BYTES = 2 ** 24, FILES = 2 ** 16, LISTINGS = 2 ** 10;

/** Where the public hub keeps large files; a mirror may send clients there. */
const STORES = ["huggingface.co", ".huggingface.co", ".hf.co"];
/** A hub on this machine may send clients to this machine, and nobody else's may. */
const LOOPBACK = ["localhost", "127.0.0.1", "[::1]"];

/** What a host keeps of the requests for one model. */
export class HubClient {
  readonly #repo: string;
  readonly #settings: HubSettings;
  readonly #fetch: typeof fetch;
  readonly #signal: AbortSignal | undefined;
  /** That the hub may redirect to. */
  readonly #hosts: readonly string[];

  constructor(
    { repo }: HubId,
    settings: HubSettings,
    options: { fetch?: typeof fetch; redirects?: readonly string[]; signal?: AbortSignal },
  ) {
    this.#repo = repo;
    this.#settings = settings;
    // Bound: as a method, a browser's `fetch` refuses.
    this.#fetch = (options.fetch ?? fetch).bind(globalThis);
    this.#signal = options.signal;
    const { hostname } = new URL(settings.endpoint);
    this.#hosts = [...options.redirects ?? [], ...LOOPBACK.includes(hostname) ? LOOPBACK : STORES];
  }

  /** The commit that a branch or a tag names now. */
  async commit(revision: string): Promise<string> {
    const { modelInfo } = await hubClient();
    const { sha } = await this.#answer(() =>
      modelInfo({
        ...this.#credentials(),
        name: this.#repo,
        revision,
        additionalFields: ["sha"],
        fetch: async (input, init) => this.#bounded(await this.#get(input, init, revision)),
      })
    );
    if (!/^[0-9a-f]{40}$/.test(sha)) {
      rangeError(OPERATION, `${this.#settings.endpoint} must answer with a commit`, sha, this.#repo);
    }
    return sha;
  }

  /** The files in the root of a commit, by name. */
  async files(commit: string): Promise<Map<string, HubFile>> {
    const { listFiles } = await hubClient();
    return await this.#answer(async () => {
      const files = new Map<string, HubFile>();
      const most = (count: number, limit: number, what: string) => {
        if (count > limit) {
          rangeError(OPERATION, `${this.#repo} must have at most ${limit} ${what}`, "more");
        }
      };
      let listings = 0;
      const listing = listFiles({
        ...this.#credentials(),
        repo: { type: "model", name: this.#repo },
        revision: commit,
        fetch: async (input, init) => {
          most(++listings, LISTINGS, "lists of files");
          return this.#bounded(await this.#get(input, init, commit));
        },
      });
      for await (const entry of listing) {
        if (entry.type === "file") files.set(entry.path, this.#checked(entry));
        most(files.size, FILES, "files");
      }
      return files;
    });
  }

  /** A file of a listing. Its hash names a file of the cache: nothing else may pass. */
  #checked({ path, size, oid, lfs }: ListFileEntry): HubFile {
    const file: HubFile = lfs === undefined
      ? { name: path, size, oid: String(oid), algorithm: "sha1" }
      : { name: path, size: lfs.size, oid: lfs.oid, algorithm: "sha256" };
    const hash = file.algorithm === "sha1" ? /^[0-9a-f]{40}$/ : /^[0-9a-f]{64}$/;
    if (!hash.test(file.oid) || !Number.isSafeInteger(size) || !Number.isSafeInteger(file.size)) {
      rangeError(OPERATION, `${this.#settings.endpoint} must give hash and size of ${path}`, file.oid);
    }
    return file;
  }

  /**
   * The bytes of a file from a position on, once: it ends early where the connection does.
   *
   * @throws {Unreachable} when the connection fails
   */
  async *read(commit: string, file: HubFile, from: number): AsyncGenerator<Uint8Array<ArrayBuffer>> {
    const { downloadFile } = await hubClient();
    const { endpoint } = this.#settings;
    const ended = new AbortController();
    let failure: unknown;
    const blob = await downloadFile({
      ...this.#credentials(),
      repo: { type: "model", name: this.#repo },
      path: file.name,
      revision: commit,
      xet: false, // plain requests for ranges resume after any byte, and need nothing but HTTP
      // What the listing says. Without it the client would ask for each file once more.
      downloadInfo: {
        size: file.size,
        etag: file.oid,
        url: `${endpoint}/${this.#repo}/resolve/${commit}/${encodeURIComponent(file.name)}`,
      },
      // The client hands on what fails as text.
      fetch: async (input, init) => {
        try {
          return await this.#get(input, { ...init, signal: ended.signal }, commit, from);
        } catch (error) {
          failure = error;
          throw error;
        }
      },
    });
    const reader = blob!.slice(from).stream().getReader();
    try {
      for (;;) {
        const { done, value } = await patiently(() => reader.read());
        if (done) return;
        yield value;
      }
    } catch (error) {
      this.#signal?.throwIfAborted();
      throw failure ??
        (error instanceof Unreachable ? error : new Unreachable(text(error), { cause: error }));
    } finally {
      ended.abort();
      await reader.cancel().catch(() => {});
    }
  }

  /** An answer in JSON; one that is cut, or none, as of a network that wants a password first, is no answer. */
  async #answer<T>(ask: () => Promise<T>): Promise<T> {
    try {
      return await ask();
    } catch (error) {
      this.#signal?.throwIfAborted();
      if (error instanceof RangeError || error instanceof Unreachable) throw error;
      throw new Unreachable(text(error), { cause: error });
    }
  }

  #credentials(): { hubUrl: string; accessToken?: string } {
    const { endpoint, token } = this.#settings;
    return { hubUrl: endpoint, ...token === undefined ? undefined : { accessToken: token } };
  }

  /** A request of the client: what goes wrong becomes a sentence, or {@linkcode Unreachable}. */
  async #get(
    input: URL | RequestInfo,
    init: RequestInit | undefined,
    revision: string,
    from = 0,
  ): Promise<Response> {
    const signals = [this.#signal, init?.signal].filter((signal) => signal != undefined);
    const url = new URL(String(input)), { endpoint } = this.#settings;
    if (url.origin !== new URL(endpoint).origin) { // of the next page of a listing: it would get the token
      rangeError(OPERATION, `${endpoint} must list the files of ${this.#repo} itself`, url.origin);
    }
    let response: Response;
    try {
      response = await follow(url, (input, init) => patiently(() => this.#fetch(input, init)), {
        hosts: this.#hosts,
        headers: init?.headers,
        signal: AbortSignal.any(signals),
      });
    } catch (error) {
      this.#signal?.throwIfAborted();
      if (error instanceof RangeError || error instanceof Unreachable) throw error;
      throw new Unreachable(text(error), { cause: error });
    }
    if (response.ok) return from === 0 ? response : startingAt(from, response);
    await response.body?.cancel();
    return this.#refused(response, revision);
  }

  /** An answer that ends with an error before it takes too much memory, whatever length it announced. */
  #bounded(response: Response): Response {
    const { endpoint } = this.#settings;
    let bytes = 0;
    const count = new TransformStream<Uint8Array<ArrayBuffer>, Uint8Array<ArrayBuffer>>({
      transform(piece, controller) {
        bytes += piece.length;
        if (bytes > JSON_BYTES) {
          rangeError(OPERATION, `an answer of ${endpoint} must have at most ${JSON_BYTES} bytes`, "more");
        }
        controller.enqueue(piece);
      },
    });
    return new Response(response.body?.pipeThrough(count), response);
  }

  #refused({ status, headers }: Response, revision: string): never {
    const { endpoint, token } = this.#settings, repo = this.#repo;
    const code = headers.get("x-error-code"), came = `HTTP status ${status}`;
    if (code === "RevisionNotFound") {
      rangeError(
        OPERATION,
        `the revision must be a branch, a tag or a commit of ${repo}`,
        revision,
        endpoint,
      );
    }
    if (code === "GatedRepo" || status === 403) {
      const page = `${endpoint}/${repo}`;
      if (token === undefined) {
        rangeError(
          OPERATION,
          `HF_TOKEN must hold a token for ${repo}, which is gated: ask for access at ${page}`,
          came,
        );
      }
      rangeError(OPERATION, `the token's owner must have access to ${repo}: ask for it at ${page}`, came);
    }
    if (status === 401 && token !== undefined && code !== "RepoNotFound") {
      rangeError(OPERATION, `HF_TOKEN must hold a token that ${endpoint} accepts`, came);
    }
    if (status === 401 || status === 404) {
      const unless = token === undefined
        ? ", or HF_TOKEN hold a token if it is private"
        : " that the token's owner may read";
      rangeError(OPERATION, `${repo} must be a model on ${endpoint}${unless}`, came);
    }
    if (status === 408 || status === 429 || status >= 500) throw new Unreachable(came);
    return rangeError(OPERATION, `${endpoint} must give ${repo}`, came);
  }
}

/** A promise that the hub must keep before patience ends. */
async function patiently<T>(ask: () => Promise<T>): Promise<T> {
  let timer: ReturnType<typeof setTimeout> | undefined;
  const silence = new Promise<never>((_, reject) => {
    timer = setTimeout(() => reject(new Unreachable(`no answer within ${PATIENCE / 1000} s`)), PATIENCE);
  });
  try {
    return await Promise.race([ask(), silence]);
  } finally {
    clearTimeout(timer);
  }
}

/** The answer to a request for bytes from a position on; of servers that send all, the first bytes are dropped. */
function startingAt(from: number, response: Response): Response {
  if (response.status === 206) {
    const range = response.headers.get("content-range");
    if (range === null || range.startsWith(`bytes ${from}-`)) return response;
    throw new Unreachable(`bytes from ${from} on were asked for, and ${range} came`);
  }
  let dropped = 0;
  const rest = new TransformStream<Uint8Array<ArrayBuffer>, Uint8Array<ArrayBuffer>>({
    transform(chunk, controller) {
      const drop = Math.min(chunk.length, from - dropped);
      dropped += drop;
      if (drop < chunk.length) controller.enqueue(chunk.subarray(drop));
    },
  });
  return new Response(response.body?.pipeThrough(rest), { headers: response.headers });
}

function text(error: unknown): string {
  if (!(error instanceof Error)) return String(error);
  // `fetch` says what went wrong in its cause.
  return error.cause instanceof Error ? `${error.message}: ${error.cause.message}` : error.message;
}
