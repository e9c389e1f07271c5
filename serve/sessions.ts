/**
 * Sessions in a key-value store: chunked, versioned, checksummed, expiring, and intact whatever happens to the process.
 *
 * | key | value |
 * |---|---|
 * | `sessions:<owner and id, hashed>:<write>:<n>` | chunk n of the snapshot that one write brought |
 * | `sessions:<owner and id, hashed>:<a or b>` | head: which write counts; written last |
 *
 * No two writes share a chunk, so that writers in different processes cannot mix. A write that breaks off, at whatever
 * byte, leaves the session as it was.
 *
 * A `SessionStore` compares and sets: it keeps one head, `a`, which is replaced only if it is still the one that the
 * request began with. Of two writers the second one gets 409. If the store does not say what came of a head, it is read
 * back: see `#settle`.
 *
 * A store of unstorage does not compare. Of its two heads the one with the higher version counts, and only the other one
 * is written to. It is checked for writes of others right before a head is written, and right after. That leaves a window
 * of one round trip to the store.
 *
 * @module
 */
import { z } from "zod";
import { Checksum } from "../model/checksum.ts";
import { Census } from "./census.ts";
import { ApiError, report } from "./errors.ts";
import { inTurn } from "./gate.ts";
import type { Limits } from "./limits.ts";
import { memoryStore } from "./stores/memory.ts";
import type { SessionStore, Versioned } from "./stores/store.ts";
import { plainStore, type SessionStorage } from "./stores/unstorage.ts";

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

/** Number of earlier writes that a head names: a writer that got no answer looks for its own there. */
const RECENT = 16;
/** How many times longer a list of all keys may take than other answers of the store. */
const LISTING = 30;
/** Milliseconds between two looks for what came of a write. */
const LOOK_AGAIN = 100;

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
  /** Names of the writes before this one, the latest first. */
  recent: z.array(z.string()).max(RECENT).optional(),
  pending: z.array(z.int().min(0)).max(1),
  tokens: z.int().min(0),
  /** Whose session it is, as a digest, for the owner's share of the store. */
  owner: z.string().regex(/^[0-9a-f]{64}$/).optional(),
  /** Milliseconds since 1970. */
  expires: z.int().min(0).max(8.64e15),
}).refine(({ bytes, chunkBytes }) => bytes <= CHUNKS * chunkBytes);

type Head = z.output<typeof headSchema>;

/** What the store has of a session besides chunks. */
interface Heads {
  /** The head that counts. */
  readonly newest: Head | undefined;
  /** The other one; a store that compares and sets has none. */
  readonly other: Head | undefined;
  /** Where the next one goes, if there are two. */
  readonly next: "a" | "b";
  /** Of what stands under `a`, damaged or not. */
  readonly version: string | undefined;
}

const HEAD = "a", HEADS = [HEAD, "b"] as const;
const PREFIX = "sessions", QUARANTINE = "quarantine";
/** Number of values that are read or written together: a folder needs a file descriptor for each. */
const TOGETHER = 64;
/** Milliseconds after which a write that no head names counts as broken off. */
const BROKEN_OFF = 3600_000;

/** A session in the hands of one request: no other of this process can use it until the lease is disposed. */
export interface Lease extends Disposable {
  /** What is known of the session without reading it: its tokens, and when it expires, in milliseconds since 1970. */
  readonly stored: { readonly tokens: number; readonly expires: number } | undefined;
  /** Aborted by {@linkcode Sessions.stop}: asks for the end of the answer that is being written. */
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
   * @throws {ApiError} 409 when another process has written it since, 503 when the store fails
   */
  save(session: StoredSession): Promise<void>;
  /**
   * Removes the session.
   *
   * @throws {ApiError} 409 when another process has written it since
   */
  remove(): Promise<void>;
}

/** Sessions of many owners in one store. */
export class Sessions {
  readonly #store: SessionStore;
  /** Whether the store compares and sets; else a session has two heads. */
  readonly #compares: boolean;
  readonly #limits: Limits;
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
   * @param storage a store that compares and sets, or one of unstorage; default: memory
   * @param options limits; `secret`: seals sessions, so that only those of this secret count; `onQuarantine`: called for
   * each record that is put away; `onEviction`: called for each session that makes room for others
   */
  constructor(
    storage: SessionStore | SessionStorage = memoryStore(),
    options: Limits & { secret?: string; onQuarantine?: () => void; onEviction?: () => void },
  ) {
    this.#compares = !("getItemRaw" in storage);
    this.#store = "getItemRaw" in storage ? plainStore(storage) : storage;
    this.#onEviction = options.onEviction ?? (() => {});
    this.#census = new Census(options);
    this.#limits = options;
    this.#secret = options.secret;
    this.#onQuarantine = options.onQuarantine ?? (() => {});
  }

  /**
   * Takes a session for a request.
   *
   * @param owner whose session it is; sessions of others with the same id are separate @param id any string
   * @throws {ApiError} 409 when another request is using it, 503 when the store fails
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
      const heads = await this.#heads(key);
      const { newest } = heads;
      const isLive = newest !== undefined && newest.bytes > 0 && newest.expires > Date.now();
      return {
        stored: isLive ? newest : undefined,
        get finish() {
          return finish();
        },
        read: async () => isLive ? await this.#read(key, newest) : undefined,
        save: (session) => this.#write(key, heads, owner, session),
        remove: () => this.#remove(key, heads),
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
      for (
        const item of await this.#ask(() => this.#store.list(PREFIX), LISTING * this.#limits.storeSeconds)
      ) {
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

  /** Ends the store's connections. */
  async close(): Promise<void> {
    await this.#store.close();
  }

  async #sweepSession(key: string, items: readonly string[], suspects: Map<string, string>): Promise<void> {
    const heads = await this.#heads(key);
    const { newest, other } = heads;
    if (newest !== undefined && newest.expires <= Date.now()) await this.#remove(key, heads);
    else if (newest !== undefined) this.#count(key, newest);
    for (const item of items) {
      const write = item.split(":")[2];
      if (HEADS.includes(write as "a")) {
        await this.#suspect(item, suspects);
      } else if (
        write !== newest?.write && write !== other?.write && parseInt(write, 36) < Date.now() - BROKEN_OFF
      ) {
        await this.#delete(item);
      }
    }
  }

  async #suspect(name: string, suspects: Map<string, string>): Promise<void> {
    const found = await this.#get(name);
    if (found === undefined || await this.#parseHead(name, found.value) !== undefined) return;
    const { value, version } = found;
    const checksum = new Checksum().bytes(value).hex();
    suspects.set(name, checksum);
    if (this.#suspects.get(name) !== checksum) return;
    const away = `${QUARANTINE}:${name}`;
    if (value.length <= this.#chunkBytes && await this.#get(away) === undefined) {
      await this.#set(away, value, undefined);
    }
    if (await this.#set(name, undefined, version)) this.#onQuarantine(); // else somebody has replaced it
  }

  /** The head that counts, and the other one. A damaged head counts as absent. */
  async #heads(key: string): Promise<Heads> {
    const found = await Promise.all(
      (this.#compares ? [HEAD] : HEADS).map((name) => this.#get(`${key}:${name}`)),
    );
    const [a, b] = await Promise.all(
      found.map((one, n) => one && this.#parseHead(`${key}:${HEADS[n]}`, one.value)),
    );
    return (a?.version ?? 0) > (b?.version ?? 0)
      ? { newest: a, other: b, next: "b", version: found[0]?.version }
      : { newest: b, other: a, next: "a", version: found[0]?.version };
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

  async #headBytes(key: string, head: Head): Promise<Uint8Array> {
    const json = JSON.stringify(head);
    return new TextEncoder().encode(await this.#seal(`${key}:${HEAD}`, json) + json);
  }

  /** What stands before a head: with a secret a proof that this server wrote it, for this session. */
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
      chunks.push(...found.map(({ value }) => value));
      if (found.length < some.length) break;
    }
    // Memory is taken for what is there, not for what a head says.
    const snapshot = concat(chunks);
    const checksum = await inTurn(() => new Checksum().bytes(snapshot).hex());
    const isWhole = snapshot.length === head.bytes && checksum === head.checksum;
    const isOurs = this.#secret === undefined || head.digest === await sha256(snapshot);
    if (!isWhole || !isOurs) {
      // The chunks go when another head takes the place of theirs.
      if ((await this.#heads(key)).newest?.write !== head.write) throw conflict();
      throw new ApiError(503, "What the store has of the session is damaged", {
        code: "session_damaged",
        retryAfter: 5, // an eventually consistent store may have all of it then
      });
    }
    return { snapshot, pending: head.pending, tokens: head.tokens };
  }

  async #write(key: string, heads: Heads, owner: string, session: StoredSession): Promise<void> {
    const { snapshot, pending, tokens } = session;
    const checksum = await inTurn(() => new Checksum().bytes(snapshot).hex());
    const { newest } = heads;
    const chunkBytes = this.#chunkBytes;
    const head: Head = {
      format: 1,
      version: (newest?.version ?? 0) + 1,
      write: newWrite(),
      bytes: snapshot.length,
      chunkBytes,
      checksum,
      digest: this.#secret === undefined ? undefined : await sha256(snapshot),
      recent: newest && [newest.write, ...newest.recent ?? []].slice(0, RECENT),
      pending: [...pending],
      tokens,
      owner: await digest(owner),
      expires: Date.now() + 1000 * this.#limits.sessionSeconds,
    };
    this.#count(key, head);
    await this.#makeRoom();
    const names = chunkNames(key, head);
    // Copies: some stores would write all of the buffer that a view looks at.
    const chunk = (n: number) => snapshot.slice(n * chunkBytes, (n + 1) * chunkBytes);
    try {
      await Promise.all(names.map((name, n) => this.#set(name, chunk(n), undefined)));
      const isStored = this.#compares
        ? await this.#replace(key, heads, head)
        : await this.#replaceOther(key, newest, head);
      if (!isStored) throw conflict();
    } catch (error) {
      if (!(error instanceof Unsettled)) await this.#discard(names);
      throw error;
    }
    // No head names these any more.
    const old = this.#compares ? newest : heads.other;
    if (old !== undefined) await this.#discard(chunkNames(key, old));
  }

  /** Writes the head that does not count, if no other process has; returns whether it counts then. */
  async #replaceOther(key: string, newest: Head | undefined, head: Head): Promise<boolean> {
    const now = await this.#heads(key);
    if ((now.newest?.version ?? 0) !== (newest?.version ?? 0)) return false;
    await this.#set(`${key}:${now.next}`, await this.#headBytes(key, head), undefined);
    return (await this.#heads(key)).newest?.write === head.write;
  }

  /** Puts a head in the place of the one that the request began with; returns whether it was still there. */
  async #replace(key: string, before: Heads, head: Head): Promise<boolean> {
    const bytes = await this.#headBytes(key, head);
    try {
      return await this.#set(`${key}:${HEAD}`, bytes, before.version);
    } catch (error) {
      return await this.#settle(key, before, head, error);
    }
  }

  /**
   * Finds out what came of a head when the store did not say. It may still be on its way. So the head that it expects is
   * replaced by one that says the same, after which it can no longer count.
   *
   * @param reason why the store did not say
   * @returns whether it is stored; if not, another process has continued the session
   * @throws reason if it is not stored, and the session is as it was @throws {Unsettled} if that cannot be found out
   */
  async #settle(key: string, before: Heads, head: Head, reason: unknown): Promise<boolean> {
    const name = `${key}:${HEAD}`;
    const fence = await this.#headBytes(key, {
      // Without a session before, a head of one that has no bytes, which counts as none.
      ...before.newest ?? { ...head, write: newWrite(), bytes: 0, tokens: 0, pending: [] },
      version: head.version,
    });
    const end = performance.now() + 1000 * this.#limits.storeSeconds;
    while (performance.now() < end) {
      let isFenced: boolean;
      try {
        const found = await this.#get(name);
        const now = found && await this.#parseHead(name, found.value);
        if (now?.write === head.write || now?.recent?.includes(head.write)) return true;
        if (found?.version !== before.version) {
          // A head that cannot name all that were written since says nothing.
          if (now === undefined || now.version >= head.version + RECENT) break;
          return false;
        }
        isFenced = await this.#set(name, fence, before.version);
      } catch {
        await new Promise((resolve) => setTimeout(resolve, LOOK_AGAIN));
        continue;
      }
      if (isFenced) throw reason;
    }
    throw new Unsettled();
  }

  /** Removes a session by the names in its heads: listing all keys would cost as much as all sessions together. */
  async #remove(key: string, { newest, other, version }: Heads): Promise<void> {
    // Heads first: chunks without a head do not count. What else is there, a sweep finds.
    if (!await this.#set(`${key}:${HEAD}`, undefined, version)) throw conflict(); // somebody has continued it
    if (!this.#compares) await this.#delete(`${key}:b`);
    for (const head of [newest, other]) if (head !== undefined) await this.#discard(chunkNames(key, head));
    this.#census.delete(key);
  }

  /** Removes chunks that no head names. What is left of them is nobody's failure, and a sweep finds it. */
  async #discard(names: readonly string[]): Promise<void> {
    await Promise.all(names.map((name) => this.#delete(name))).catch(() => {});
  }

  #count(key: string, { owner = "", bytes, expires }: Head): void {
    this.#census.add(key, { owner, bytes, expires });
  }

  /** Removes what has expired, and what was not used for longest while there is more than may be. */
  async #makeRoom(): Promise<void> {
    for (;;) {
      const surplus = this.#census.surplus((key) => this.#busy.has(key));
      if (surplus === undefined) return;
      this.#census.delete(surplus.key); // now, as others may be looking for one too
      try {
        const heads = await this.#heads(surplus.key);
        if (heads.newest === undefined) continue;
        if (heads.newest.expires > surplus.expires) {
          this.#count(surplus.key, heads.newest); // another process has used it since
          continue;
        }
        if (!surplus.isExpired) this.#onEviction();
        await this.#remove(surplus.key, heads);
      } catch (error) {
        report(error); // the next sweep finds it again; it is nobody else's failure
      }
    }
  }

  get #chunkBytes(): number {
    return Math.min(this.#limits.valueBytes, this.#store.valueBytes);
  }

  #set(key: string, value: Uint8Array | undefined, expectedVersion: string | undefined): Promise<boolean> {
    const options = { ttl: this.#limits.sessionSeconds };
    return this.#ask(() => this.#store.write(key, value, expectedVersion, options));
  }

  #delete(key: string): Promise<void> {
    return this.#ask(() => this.#store.remove(key));
  }

  #get(key: string): Promise<Versioned | undefined> {
    return this.#ask(() => this.#store.read(key));
  }

  /**
   * Asks the store for something.
   *
   * @throws {ApiError} 503 when it fails, or does not answer within so many seconds; the log gets the reason
   */
  async #ask<T>(work: () => Promise<T>, seconds = this.#limits.storeSeconds): Promise<T> {
    return await this.#turns.take(async () => {
      let timer: ReturnType<typeof setTimeout> | undefined;
      const late = new Promise<never>((_, reject) => {
        const error = new Error(`The session store did not answer within ${seconds} s`);
        timer = setTimeout(() => reject(error), 1000 * seconds);
      });
      try {
        return await Promise.race([work(), late]);
      } catch (error) {
        report(error);
        throw new ApiError(503, "The session store does not answer: the session is as it was", {
          code: "session_store_failed",
          retryAfter: 5,
        });
      } finally {
        clearTimeout(timer);
      }
    });
  }
}

/** The store went away with a turn. */
class Unsettled extends ApiError {
  constructor() {
    super(
      503,
      "The session store does not answer, and may have stored this turn: GET /v1/sessions/<id> tells the session's tokens",
      { code: "session_store_unsettled", retryAfter: 5 },
    );
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

function conflict(): ApiError {
  return new ApiError(409, "Another process has continued this session", {
    param: "session",
    code: "session_conflict",
  });
}

/** Names the chunks of a write, and when it was. */
function newWrite(): string {
  return `${Date.now().toString(36)}-${crypto.randomUUID().slice(0, 8)}`;
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
