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
import { z } from "zod";
import { Checksum } from "../model/checksum.ts";
import { Census } from "./census.ts";
import { ApiError, report } from "./errors.ts";
import { inTurn } from "./gate.ts";
import type { Limits } from "./limits.ts";

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

/** Maximum number of chunks of a session. */
const CHUNKS = 2 ** 14;

/** What a head says, as JSON after its own seal. Nothing that a store gives back is trusted before it is checked. */
const headSchema = z.object({
  format: z.literal(1),
  version: z.int().min(1).max(2 ** 48),
  /** Names the chunks: when and by whom they were written. */
  write: z.string().regex(/^[0-9a-z]{1,11}-[0-9a-f]{8}$/),
  bytes: z.int().min(0),
  chunkBytes: z.int().min(1),
  /** Of the snapshot. */
  checksum: z.string().regex(/^[0-9a-f]{8}$/),
  /** SHA-256 of the snapshot, if heads are sealed with a secret. */
  digest: z.string().regex(/^[0-9a-f]{64}$/).optional(),
  pending: z.array(z.int().min(0)).max(1),
  tokens: z.int().min(0),
  /** Whose session it is, as a digest, for the owner's share of the store. */
  owner: z.string().regex(/^[0-9a-f]{64}$/).optional(),
  /** Milliseconds since 1970. */
  expires: z.int().min(0).max(8.64e15),
}).refine(({ bytes, chunkBytes }) => bytes <= CHUNKS * chunkBytes);

type Head = z.output<typeof headSchema>;

const HEADS = ["a", "b"] as const;
const PREFIX = "sessions", QUARANTINE = "quarantine";
/** Number of values that are read or written together: a folder needs a file descriptor for each. */
const TOGETHER = 64;
/** Milliseconds after which a write that no head names counts as broken off. */
const BROKEN_OFF = 3600_000;

/** A session in the hands of one request: no other of this process can use it until the lease is disposed. */
export interface Lease extends Disposable {
  /** What is known of the session without reading it: its tokens, and when it expires, in milliseconds since 1970. */
  readonly stored: { readonly tokens: number; readonly expires: number } | undefined;
  /** Aborted by {@linkcode SessionStore.stop}: asks for the end of the answer that is being written. */
  readonly finish: AbortSignal;
  /**
   * Reads the session, if it is stored.
   *
   * @throws {ApiError} 503 when what the store has is damaged
   */
  read(): Promise<StoredSession | undefined>;
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
  readonly #secret: string | undefined;
  readonly #onQuarantine: () => void;
  readonly #onEviction: () => void;
  /** Checksums of heads that the last sweep found damaged, by their names. */
  #suspects = new Map<string, string>();
  /** Sessions in use. Each has what ends its answer, if there is one. */
  readonly #busy = new Map<string, AbortController | undefined>();
  /** What is stored, as far as this process knows: what it wrote, and what the last sweep found. */
  readonly #census: Census;
  /** Bounds how many of the store's values are read and written together, by all sessions. */
  readonly #turns = new Turns(TOGETHER);

  /**
   * @param storage any store of unstorage; default: memory
   * @param options limits; `secret`: seals sessions, so that only those of this secret count; `onQuarantine`: called for
   * each record that is put away; `onEviction`: called for each session that makes room for others
   */
  constructor(
    storage: SessionStorage | undefined,
    options: Limits & { secret?: string; onQuarantine?: () => void; onEviction?: () => void },
  ) {
    this.#storage = storage ?? createStorage();
    this.#onEviction = options.onEviction ?? (() => {});
    this.#census = new Census(options);
    this.#chunkBytes = options.valueBytes;
    this.#seconds = options.sessionSeconds;
    this.#secret = options.secret;
    this.#onQuarantine = options.onQuarantine ?? (() => {});
  }

  /**
   * Takes a session for a request.
   *
   * @param owner whose session it is; sessions of others with the same id are separate @param id any string
   * @throws {ApiError} 409 when another request is using it
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
        stored: isLive ? newest : undefined,
        get finish() {
          return finish();
        },
        read: async () => isLive ? await this.#read(key, newest) : undefined,
        save: (session) => this.#write(key, newest?.version ?? 0, owner, session),
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

  /**
   * Removes all sessions that have expired, also those of earlier processes, and what broken writes left. Heads that two
   * sweeps find damaged in the same way are put away, out of reach of requests: by then nobody is still writing them.
   * What goes wrong with one session is logged and keeps nobody else's from being swept.
   */
  async sweep(): Promise<void> {
    const suspects = new Map<string, string>();
    try {
      const sessions = new Map<string, string[]>();
      for (const item of await this.#storage.getKeys(PREFIX)) {
        const key = item.split(":").slice(0, 2).join(":");
        const items = sessions.get(key);
        if (items === undefined) sessions.set(key, [item]);
        else items.push(item);
      }
      for (const [key, items] of sessions) {
        if (this.#busy.has(key)) continue;
        try {
          await this.#sweepSession(key, items, suspects);
        } catch (error) {
          this.#census.delete(key); // until the next sweep
          report(error);
        }
      }
    } catch (error) {
      report(error);
    }
    this.#suspects = suspects;
    await this.#makeRoom();
  }

  /** Numbers of sessions and of their bytes. */
  get stored(): { sessions: number; bytes: number } {
    return { sessions: this.#census.size, bytes: this.#census.bytes };
  }

  async #sweepSession(key: string, items: readonly string[], suspects: Map<string, string>): Promise<void> {
    const { newest, other } = await this.#heads(key);
    if (newest !== undefined && newest.expires <= Date.now()) await this.#remove(key);
    else if (newest !== undefined) {
      this.#census.add(key, { owner: newest.owner ?? "", bytes: newest.bytes, expires: newest.expires });
    }
    for (const item of items) {
      const write = item.split(":")[2];
      if (HEADS.includes(write as "a")) {
        await this.#suspect(item, suspects);
      } else if (
        write !== newest?.write && write !== other?.write && parseInt(write, 36) < Date.now() - BROKEN_OFF
      ) {
        await this.#storage.removeItem(item);
      }
    }
  }

  async #suspect(name: string, suspects: Map<string, string>): Promise<void> {
    const bytes = await this.#get(name);
    if (bytes === undefined || await this.#parseHead(name, bytes) !== undefined) return;
    const checksum = new Checksum().bytes(bytes).hex();
    suspects.set(name, checksum);
    if (this.#suspects.get(name) !== checksum) return;
    if (bytes.length <= this.#chunkBytes) await this.#set(`${QUARANTINE}:${name}`, bytes);
    await this.#storage.removeItem(name);
    this.#onQuarantine();
  }

  /** The head that counts, the other one, and where the next one goes. A damaged head counts as absent. */
  async #heads(key: string): Promise<{ newest: Head | undefined; other: Head | undefined; next: "a" | "b" }> {
    const [a, b] = await Promise.all(HEADS.map((name) => this.#head(`${key}:${name}`)));
    return (a?.version ?? 0) > (b?.version ?? 0)
      ? { newest: a, other: b, next: "b" }
      : { newest: b, other: a, next: "a" };
  }

  async #head(name: string): Promise<Head | undefined> {
    const bytes = await this.#get(name);
    if (bytes === undefined) return undefined;
    return await this.#parseHead(name, bytes);
  }

  async #parseHead(name: string, bytes: Uint8Array): Promise<Head | undefined> {
    const text = new TextDecoder().decode(bytes);
    const start = text.indexOf("{");
    const json = text.slice(start);
    if (start < 0 || text.slice(0, start) !== await this.#seal(name, json)) return undefined;
    try {
      return headSchema.parse(JSON.parse(json));
    } catch {
      return undefined;
    }
  }

  /** What stands before a head: with a secret a proof that this server wrote it, under this name. */
  async #seal(name: string, json: string): Promise<string> {
    if (this.#secret === undefined) return new Checksum().text(json).hex();
    return await hmac(this.#secret, `${name.slice(0, name.lastIndexOf(":"))}\0${json}`);
  }

  async #read(key: string, head: Head): Promise<StoredSession> {
    const chunks: Uint8Array[] = [];
    const names = chunkNames(key, head);
    for (let n = 0; n < names.length; n += TOGETHER) {
      const some = await Promise.all(names.slice(n, n + TOGETHER).map((name) => this.#get(name)));
      const found = some.filter((chunk) => chunk !== undefined);
      chunks.push(...found);
      if (found.length < some.length) break;
    }
    // Memory is taken for what is there, not for what a head says.
    const snapshot = concat(chunks);
    const checksum = await inTurn(() => new Checksum().bytes(snapshot).hex());
    const isWhole = snapshot.length === head.bytes && checksum === head.checksum;
    const isOurs = this.#secret === undefined || head.digest === await sha256(snapshot);
    if (!isWhole || !isOurs) {
      throw new ApiError(503, "What the store has of the session is damaged", {
        code: "session_damaged",
        retryAfter: 5, // an eventually consistent store may have all of it then
      });
    }
    return { snapshot, pending: head.pending, tokens: head.tokens };
  }

  async #write(
    key: string,
    version: number,
    owner: string,
    { snapshot, pending, tokens }: StoredSession,
  ): Promise<void> {
    const checksum = await inTurn(() => new Checksum().bytes(snapshot).hex());
    const head: Head = {
      format: 1,
      version: version + 1,
      write: `${Date.now().toString(36)}-${crypto.randomUUID().slice(0, 8)}`,
      bytes: snapshot.length,
      chunkBytes: this.#chunkBytes,
      checksum,
      digest: this.#secret === undefined ? undefined : await sha256(snapshot),
      pending: [...pending],
      tokens,
      owner: await digest(owner),
      expires: Date.now() + 1000 * this.#seconds,
    };
    this.#census.add(key, { owner: head.owner!, bytes: head.bytes, expires: head.expires });
    await this.#makeRoom();
    const names = chunkNames(key, head);
    // Copies: some stores would write all of the buffer that a view looks at.
    const chunk = (n: number) => snapshot.slice(n * this.#chunkBytes, (n + 1) * this.#chunkBytes);
    await Promise.all(names.map((name, n) => this.#set(name, chunk(n))));
    const { newest, other, next } = await this.#heads(key);
    const json = JSON.stringify(head);
    const isAlone = (newest?.version ?? 0) === version;
    if (isAlone) {
      const name = `${key}:${next}`;
      await this.#set(name, new TextEncoder().encode(await this.#seal(name, json) + json));
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
  }

  /** Removes a session by the names in its heads: listing all keys would cost as much as all sessions together. */
  async #remove(key: string): Promise<void> {
    const { newest, other } = await this.#heads(key);
    // Heads first: chunks without a head do not count. What else is there, a sweep finds.
    for (const name of HEADS) await this.#storage.removeItem(`${key}:${name}`);
    for (const head of [newest, other]) {
      if (head === undefined) continue;
      for (const name of chunkNames(key, head)) await this.#storage.removeItem(name);
    }
    this.#census.delete(key);
  }

  /** Removes what has expired, and what was not used for longest while there is more than may be. */
  async #makeRoom(): Promise<void> {
    for (;;) {
      const surplus = this.#census.surplus((key) => this.#busy.has(key));
      if (surplus === undefined) return;
      if (!surplus.isExpired) this.#onEviction();
      this.#census.delete(surplus.key); // now, as others may be looking for one too
      try {
        await this.#remove(surplus.key);
      } catch (error) {
        report(error); // the next sweep finds it again; it is nobody else's failure
      }
    }
  }

  #set(key: string, value: Uint8Array): Promise<void> {
    return this.#turns.take(() => this.#storage.setItemRaw(key, value, { ttl: this.#seconds }));
  }

  async #get(key: string): Promise<Uint8Array | undefined> {
    const value: unknown = await this.#turns.take(() => this.#storage.getItemRaw(key));
    if (value === null || value === undefined) return undefined;
    if (value instanceof Uint8Array) return value;
    if (value instanceof ArrayBuffer) return new Uint8Array(value);
    if (typeof value === "string") return new TextEncoder().encode(value);
    throw new TypeError(`Cannot read the session store as it gave no bytes for ${key}`);
  }
}

/** A few at a time. */
class Turns {
  #free: number;
  readonly #waiting: (() => void)[] = [];

  constructor(free: number) {
    this.#free = free;
  }

  async take<T>(work: () => Promise<T>): Promise<T> {
    if (this.#free > 0) this.#free--;
    else await new Promise<void>((resolve) => this.#waiting.push(resolve));
    try {
      return await work();
    } finally {
      const next = this.#waiting.shift();
      if (next === undefined) this.#free++;
      else next();
    }
  }
}

function chunkNames(key: string, { write, bytes, chunkBytes }: Head): string[] {
  return Array.from({ length: Math.ceil(bytes / chunkBytes) }, (_, n) => `${key}:${write}:${n}`);
}

/** Under which the store has a session. */
async function keyOf(owner: string, id: string): Promise<string> {
  return `${PREFIX}:${await digest(`${owner}\0${id}`)}`;
}

function concat(chunks: readonly Uint8Array[]): Uint8Array {
  const bytes = new Uint8Array(chunks.reduce((sum, { length }) => sum + length, 0));
  let filled = 0;
  for (const chunk of chunks) {
    bytes.set(chunk, filled);
    filled += chunk.length;
  }
  return bytes;
}

/** SHA-256, in 64 hexadecimal digits: no id can leave the place of its owner. */
export async function digest(text: string): Promise<string> {
  return await sha256(new TextEncoder().encode(text));
}

async function sha256(bytes: Uint8Array): Promise<string> {
  return hex(await crypto.subtle.digest("SHA-256", bytes as Uint8Array<ArrayBuffer>));
}

async function hmac(secret: string, text: string): Promise<string> {
  const encoder = new TextEncoder(), algorithm = { name: "HMAC", hash: "SHA-256" };
  const key = await crypto.subtle.importKey("raw", encoder.encode(secret), algorithm, false, ["sign"]);
  return hex(await crypto.subtle.sign("HMAC", key, encoder.encode(text)));
}

function hex(bytes: ArrayBuffer): string {
  return Array.from(new Uint8Array(bytes), (byte) => byte.toString(16).padStart(2, "0")).join("");
}
