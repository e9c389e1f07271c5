/**
 * Sessions in a key-value store: chunked, versioned, checksummed, expiring, and intact whatever happens to the process.
 *
 * | key | value |
 * |---|---|
 * | `sessions:<owner and id, hashed>:<write>:<n>` | chunk n of the snapshot that one write brought |
 * | `sessions:<owner and id, hashed>:<a or b>` | head: which write counts; written last, `a` and `b` alternately |
 *
 * Of two heads the one with the higher version counts, and only the other one is written to, after its chunks: a write
 * that breaks off, at whatever byte, leaves the session as it was. No two writes share a chunk, so that writers in
 * different processes cannot mix. The stores have no compare-and-set: right before the head is written, and right after,
 * the store is checked for writes of others. That leaves a window of one round trip to the store.
 *
 * @module
 */
import { createStorage } from "unstorage";
import { Checksum } from "../model/checksum.ts";
import { ApiError } from "./errors.ts";

/** What sessions need of a store: any `Storage` of unstorage has it. Keys are words with colons between them. */
export interface SessionStorage {
  /** The bytes under a key, or null. */
  getItemRaw(key: string): Promise<unknown>;
  /** Writes bytes; `ttl`: seconds after which the store may forget them. */
  setItemRaw(key: string, value: Uint8Array, options: { ttl: number }): Promise<void>;
  /** Removes a key. */
  removeItem(key: string): Promise<void>;
  /** The keys that begin with `base`. */
  getKeys(base: string): Promise<string[]>;
}

/** A session as it is stored. */
export interface StoredSession {
  /** See `Session.snapshot`. */
  readonly snapshot: Uint8Array;
  /** Tokens of the session that the snapshot has not read: none or one. */
  readonly pending: readonly number[];
  /** Tokens of the session, the pending one included. */
  readonly tokens: number;
}

/** What a head says, as JSON after its own checksum. */
interface Head {
  readonly format: 1;
  readonly version: number;
  /** Names the chunks. */
  readonly write: string;
  readonly bytes: number;
  readonly chunkBytes: number;
  readonly checksum: string;
  readonly pending: readonly number[];
  readonly tokens: number;
  /** Milliseconds since 1970. */
  readonly expires: number;
}

const HEADS = ["a", "b"] as const;
const PREFIX = "sessions";
/** Milliseconds after which a write that no head names counts as broken off. */
const BROKEN_OFF = 3600_000;

/** A session in the hands of one request: no other of this process can use it until the lease is disposed. */
export interface Lease extends Disposable {
  /** What was stored, if anything. */
  readonly stored: StoredSession | undefined;
  /** Milliseconds since 1970; 0 if nothing was stored. */
  readonly expires: number;
  /** Aborted by {@linkcode SessionStore.stop}: asks for the end of the answer that is being written. */
  readonly finish: AbortSignal;
  /**
   * Stores the session. When this resolves, the store has it.
   *
   * @throws {ApiError} 409 when another process has written it since
   */
  save(session: StoredSession): Promise<void>;
  /** Removes the session. */
  remove(): Promise<void>;
}

/** Sessions of many owners in one store. */
export class SessionStore {
  readonly #storage: SessionStorage;
  readonly #chunkBytes: number;
  readonly #seconds: number;
  /** Sessions in use. Each has what ends its answer, if there is one. */
  readonly #busy = new Map<string, AbortController | undefined>();
  /** When what this process wrote expires, the earliest first, for stores that keep everything. */
  readonly #expiries = new Map<string, number>();

  /**
   * @param storage any store of unstorage; default: memory
   * @param options `valueBytes`: the store's limit of a value; `sessionSeconds`: time from the last use to expiry
   */
  constructor(storage: SessionStorage | undefined, options: { valueBytes: number; sessionSeconds: number }) {
    this.#storage = storage ?? createStorage();
    this.#chunkBytes = options.valueBytes;
    this.#seconds = options.sessionSeconds;
  }

  /**
   * Takes a session for a request.
   *
   * @param owner whose session it is; sessions of others with the same id are separate @param id any string
   * @throws {ApiError} 409 when another request is using it, 503 when what the store has is damaged
   */
  async open(owner: string, id: string): Promise<Lease> {
    const key = await keyOf(owner, id);
    if (this.#busy.has(key)) {
      throw new ApiError(409, "Another request is using this session", {
        param: "session",
        code: "session_busy",
      });
    }
    this.#busy.set(key, undefined);
    const finish = () => {
      const controller = this.#busy.get(key) ?? new AbortController();
      this.#busy.set(key, controller);
      return controller.signal;
    };
    try {
      const { newest } = await this.#heads(key);
      const isLive = newest !== undefined && newest.expires > Date.now();
      return {
        stored: isLive ? await this.#read(key, newest) : undefined,
        expires: isLive ? newest.expires : 0,
        get finish() {
          return finish();
        },
        save: (session) => this.#write(key, newest?.version ?? 0, session),
        remove: () => this.#remove(key),
        [Symbol.dispose]: () => void this.#busy.delete(key),
      };
    } catch (error) {
      this.#busy.delete(key);
      throw error;
    }
  }

  /** Asks for the end of the answer that is being written in a session; returns whether there is one. */
  async stop(owner: string, id: string): Promise<boolean> {
    const controller = this.#busy.get(await keyOf(owner, id));
    controller?.abort();
    return controller !== undefined;
  }

  /** Removes all sessions that have expired, also those of earlier processes, and what broken writes left. */
  async sweep(): Promise<void> {
    const sessions = new Map<string, string[]>();
    for (const item of await this.#storage.getKeys(PREFIX)) {
      const key = item.split(":").slice(0, 2).join(":");
      sessions.set(key, [...sessions.get(key) ?? [], item]);
    }
    for (const [key, items] of sessions) {
      if (this.#busy.has(key)) continue;
      const { newest, other } = await this.#heads(key);
      if (newest !== undefined && newest.expires <= Date.now()) await this.#remove(key);
      for (const item of items) {
        const write = item.split(":")[2];
        const isNamed = write === newest?.write || write === other?.write || HEADS.includes(write as "a");
        if (!isNamed && parseInt(write, 36) < Date.now() - BROKEN_OFF) await this.#storage.removeItem(item);
      }
    }
  }

  /** The head that counts, the other one, and where the next one goes. A head that fails its checksum counts as absent. */
  async #heads(key: string): Promise<{ newest: Head | undefined; other: Head | undefined; next: "a" | "b" }> {
    const [a, b] = await Promise.all(HEADS.map((name) => this.#head(`${key}:${name}`)));
    return (a?.version ?? 0) > (b?.version ?? 0)
      ? { newest: a, other: b, next: "b" }
      : { newest: b, other: a, next: "a" };
  }

  async #head(name: string): Promise<Head | undefined> {
    const bytes = await this.#get(name);
    if (bytes === undefined) return undefined;
    const text = new TextDecoder().decode(bytes);
    const json = text.slice(8);
    return new Checksum().text(json).hex() === text.slice(0, 8) ? JSON.parse(json) as Head : undefined;
  }

  async #read(key: string, head: Head): Promise<StoredSession> {
    const snapshot = new Uint8Array(head.bytes);
    const chunks = await Promise.all(chunkNames(key, head).map((name) => this.#get(name)));
    let filled = 0;
    for (const chunk of chunks) {
      if (chunk === undefined || filled + chunk.length > snapshot.length) break;
      snapshot.set(chunk, filled);
      filled += chunk.length;
    }
    if (filled !== head.bytes || new Checksum().bytes(snapshot).hex() !== head.checksum) {
      throw new ApiError(503, "What the store has of the session is damaged", {
        code: "session_damaged",
        retryAfter: 5, // an eventually consistent store may have all of it then
      });
    }
    return { snapshot, pending: head.pending, tokens: head.tokens };
  }

  async #write(key: string, version: number, { snapshot, pending, tokens }: StoredSession): Promise<void> {
    const head: Head = {
      format: 1,
      version: version + 1,
      write: `${Date.now().toString(36)}-${crypto.randomUUID().slice(0, 8)}`,
      bytes: snapshot.length,
      chunkBytes: this.#chunkBytes,
      checksum: new Checksum().bytes(snapshot).hex(),
      pending,
      tokens,
      expires: Date.now() + 1000 * this.#seconds,
    };
    const names = chunkNames(key, head);
    // Copies: some stores would write all of the buffer that a view looks at.
    const chunk = (n: number) => snapshot.slice(n * this.#chunkBytes, (n + 1) * this.#chunkBytes);
    await Promise.all(names.map((name, n) => this.#set(name, chunk(n))));
    const { newest, other, next } = await this.#heads(key);
    const json = JSON.stringify(head);
    const isAlone = (newest?.version ?? 0) === version;
    if (isAlone) {
      await this.#set(`${key}:${next}`, new TextEncoder().encode(new Checksum().text(json).hex() + json));
    }
    if (!isAlone || (await this.#heads(key)).newest?.write !== head.write) {
      for (const name of names) await this.#storage.removeItem(name);
      throw new ApiError(409, "Another process has continued this session", {
        param: "session",
        code: "session_conflict",
      });
    }
    // No head names these any more.
    if (other !== undefined) {
      await Promise.all(chunkNames(key, other).map((name) => this.#storage.removeItem(name)));
    }
    await this.#forgetExpired(key, head.expires);
  }

  async #remove(key: string): Promise<void> {
    // Heads first: chunks without a head do not count.
    for (const name of HEADS) await this.#storage.removeItem(`${key}:${name}`);
    for (const item of await this.#storage.getKeys(key)) await this.#storage.removeItem(item);
    this.#expiries.delete(key);
  }

  async #forgetExpired(key: string, expires: number): Promise<void> {
    this.#expiries.delete(key);
    this.#expiries.set(key, expires);
    for (const [old, expires] of this.#expiries) {
      if (expires > Date.now()) break;
      if (this.#busy.has(old)) continue;
      await this.#remove(old);
    }
  }

  #set(key: string, value: Uint8Array): Promise<void> {
    return this.#storage.setItemRaw(key, value, { ttl: this.#seconds });
  }

  async #get(key: string): Promise<Uint8Array | undefined> {
    const value: unknown = await this.#storage.getItemRaw(key);
    if (value === null || value === undefined) return undefined;
    if (value instanceof Uint8Array) return value;
    if (value instanceof ArrayBuffer) return new Uint8Array(value);
    if (typeof value === "string") return new TextEncoder().encode(value);
    throw new TypeError(`Cannot read the session store as it gave no bytes for ${key}`);
  }
}

function chunkNames(key: string, { write, bytes, chunkBytes }: Head): string[] {
  return Array.from({ length: Math.ceil(bytes / chunkBytes) }, (_, n) => `${key}:${write}:${n}`);
}

/** Under which the store has a session. */
async function keyOf(owner: string, id: string): Promise<string> {
  return `${PREFIX}:${await digest(`${owner}\0${id}`)}`;
}

/** SHA-256, in 64 hexadecimal digits: no id can leave the place of its owner. */
export async function digest(text: string): Promise<string> {
  const bytes = new Uint8Array(await crypto.subtle.digest("SHA-256", new TextEncoder().encode(text)));
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}
