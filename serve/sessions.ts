/**
 * Sessions in a key-value store: chunked, versioned, checksummed, expiring, and whole whatever happens to the process.
 *
 * Each session has two places, `a` and `b`, which are written in turns:
 *
 * | key | value |
 * |---|---|
 * | `sessions:<owner and id, hashed>:<place>:<n>` | chunk n of the snapshot |
 * | `sessions:<owner and id, hashed>:<place>:head` | what makes the chunks a session; written last |
 *
 * The place with the higher version counts, and only the other one is written to: a write that breaks off, at whatever
 * byte, leaves the session as it was, and the next write goes over what it left.
 *
 * @module
 */
import { createStorage, type Storage } from "unstorage";
import { Checksum } from "../model/checksum.ts";
import { ApiError } from "./errors.ts";

/** A session as it is stored. */
export interface StoredSession {
  /** See `Session.snapshot`. */
  readonly snapshot: Uint8Array;
  /** Tokens that belong to the session and that the snapshot has not read: none or one. */
  readonly pending: readonly number[];
  /** Tokens of the session, the pending one included. */
  readonly tokens: number;
}

/** What a place's head says, as JSON after its own checksum. */
interface Head {
  readonly format: 1;
  readonly version: number;
  readonly bytes: number;
  readonly chunkBytes: number;
  readonly checksum: string;
  readonly pending: readonly number[];
  readonly tokens: number;
  /** Milliseconds since 1970. */
  readonly expires: number;
}

const PLACES = ["a", "b"] as const;
const PREFIX = "sessions";

/** A session that is in use by one request: no other gets at it in this process until it is disposed. */
export interface Lease extends Disposable {
  /** What was stored, where something was. */
  readonly stored: StoredSession | undefined;
  /** Milliseconds since 1970; 0 where nothing was stored. */
  readonly expires: number;
  /**
   * Stores the session anew. When it resolves, the store has it.
   *
   * @throws {ApiError} 409 when somebody else, in another process, wrote it since
   */
  save(session: StoredSession): Promise<void>;
  /** Removes the session. */
  remove(): Promise<void>;
}

/** Sessions of many owners in one store. */
export class SessionStore {
  readonly #storage: Storage;
  readonly #chunkBytes: number;
  readonly #seconds: number;
  readonly #busy = new Set<string>();
  /** When what this process wrote expires, the earliest first, for stores that keep everything. */
  readonly #expiries = new Map<string, number>();

  /**
   * @param storage any store of unstorage; left out: memory
   * @param options `valueBytes`: the store's limit of a value; `sessionSeconds`: time from the last use to expiry
   */
  constructor(storage: Storage | undefined, options: { valueBytes: number; sessionSeconds: number }) {
    this.#storage = storage ?? createStorage();
    this.#chunkBytes = options.valueBytes;
    this.#seconds = options.sessionSeconds;
  }

  /**
   * Takes a session for a request.
   *
   * @param owner whose session it is; others with the same id do not meet @param id any string
   * @throws {ApiError} 409 when another request has it, 503 when the store gives it back damaged
   */
  async open(owner: string, id: string): Promise<Lease> {
    const key = `${PREFIX}:${await digest(`${owner}\0${id}`)}`;
    if (this.#busy.has(key)) {
      throw new ApiError(409, "Another request of this session is under way", {
        param: "session",
        code: "session_busy",
      });
    }
    this.#busy.add(key);
    try {
      const place = await this.#newest(key);
      const head = place?.head;
      const isLive = head !== undefined && head.expires > Date.now();
      const stored = isLive ? await this.#read(key, place!.name, head) : undefined;
      return {
        stored,
        expires: isLive ? head.expires : 0,
        save: (session) => this.#write(key, head?.version ?? 0, session),
        remove: () => this.#remove(key),
        [Symbol.dispose]: () => void this.#busy.delete(key),
      };
    } catch (error) {
      this.#busy.delete(key);
      throw error;
    }
  }

  /** Removes all sessions that have expired, also those of earlier processes. */
  async sweep(): Promise<void> {
    const keys = new Set(
      (await this.#storage.getKeys(PREFIX)).map((key) => key.split(":").slice(0, 2).join(":")),
    );
    for (const key of keys) {
      if (this.#busy.has(key)) continue;
      const place = await this.#newest(key);
      if (place !== undefined && place.head.expires <= Date.now()) await this.#remove(key);
    }
  }

  /** The place that counts. */
  async #newest(key: string): Promise<{ name: string; head: Head } | undefined> {
    const heads = await Promise.all(
      PLACES.map(async (name) => ({ name, head: await this.#head(key, name) })),
    );
    return heads
      .filter((place): place is { name: "a" | "b"; head: Head } => place.head !== undefined)
      .sort((a, b) => b.head.version - a.head.version)[0];
  }

  /** A head, where there is one and it is whole: one that was torn while it was written is none. */
  async #head(key: string, place: string): Promise<Head | undefined> {
    const bytes = await this.#get(`${key}:${place}:head`);
    if (bytes === undefined) return undefined;
    const text = new TextDecoder().decode(bytes);
    const json = text.slice(8);
    return new Checksum().text(json).hex() === text.slice(0, 8) ? JSON.parse(json) as Head : undefined;
  }

  async #read(key: string, place: string, head: Head): Promise<StoredSession> {
    const snapshot = new Uint8Array(head.bytes);
    const count = Math.ceil(head.bytes / head.chunkBytes);
    const chunks = await Promise.all(
      Array.from({ length: count }, (_, n) => this.#get(`${key}:${place}:${n}`)),
    );
    let filled = 0;
    for (const chunk of chunks) {
      if (chunk === undefined || filled + chunk.length > snapshot.length) break;
      snapshot.set(chunk, filled);
      filled += chunk.length;
    }
    if (filled !== head.bytes || new Checksum().bytes(snapshot).hex() !== head.checksum) {
      throw new ApiError(503, "The store gave the session back damaged", {
        code: "session_damaged",
        retryAfter: 5, // a store that is consistent only after a while may give it back whole then
      });
    }
    return { snapshot, pending: head.pending, tokens: head.tokens };
  }

  async #write(key: string, version: number, { snapshot, pending, tokens }: StoredSession): Promise<void> {
    const newest = await this.#newest(key);
    if ((newest?.head.version ?? 0) !== version) {
      throw new ApiError(409, "Another process went on with this session", {
        param: "session",
        code: "session_conflict",
      });
    }
    const place = newest?.name === "a" ? "b" : "a";
    const expires = Date.now() + 1000 * this.#seconds;
    const chunks: Promise<void>[] = [];
    for (let start = 0; start < snapshot.length; start += this.#chunkBytes) {
      // A copy: some stores would write all of the buffer that a view looks at.
      chunks.push(
        this.#set(`${key}:${place}:${chunks.length}`, snapshot.slice(start, start + this.#chunkBytes)),
      );
    }
    await Promise.all(chunks);
    const head: Head = {
      format: 1,
      version: version + 1,
      bytes: snapshot.length,
      chunkBytes: this.#chunkBytes,
      checksum: new Checksum().bytes(snapshot).hex(),
      pending,
      tokens,
      expires,
    };
    const json = JSON.stringify(head);
    await this.#set(`${key}:${place}:head`, new TextEncoder().encode(new Checksum().text(json).hex() + json));
    await this.#forgetExpired(key, expires);
  }

  async #remove(key: string): Promise<void> {
    // Heads first: chunks without a head are nothing.
    for (const place of PLACES) await this.#storage.removeItem(`${key}:${place}:head`);
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

/** SHA-256, in 64 hexadecimal digits: no id leads out of its key. */
export async function digest(text: string): Promise<string> {
  const bytes = new Uint8Array(await crypto.subtle.digest("SHA-256", new TextEncoder().encode(text)));
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}
