/**
 * Sessions in Cloudflare's Durable Objects: one object for each session, wherever its requests arrive. An object does one
 * thing after another, so that its writes are ordered by construction.
 *
 * @module
 */
import type { SessionStore } from "./store.ts";

/** What is used of a binding to a class of Durable Objects. */
export interface ObjectNamespace {
  /** The object of a name. */
  getByName(name: string): { fetch(request: Request): Promise<Response> };
}

/** What is used of the storage of a Durable Object. */
export interface ObjectStorage {
  /** The value of a key. */
  get(key: string): Promise<unknown>;
  /** Sets a value. */
  put(key: string, value: unknown): Promise<void>;
  /** Removes a key. */
  delete(key: string): Promise<boolean>;
  /** Removes all keys. */
  deleteAll(): Promise<void>;
  /** Calls `alarm` at a time, in milliseconds since 1970. */
  setAlarm(time: number): Promise<void>;
}

/** A record as an object keeps it. */
interface Kept {
  readonly value: Uint8Array<ArrayBuffer>;
  readonly version: string;
}

/** The name of the version of a record in requests and responses. */
const VERSION = "x-version", TTL = "x-ttl";

/**
 * The class of Durable Objects that {@linkcode objectStore} asks: a Worker exports it and binds it. An object that was not
 * written to for as long as a session is kept is emptied by its alarm.
 */
export class SessionObject {
  readonly #storage: ObjectStorage;
  /** When the object is emptied; none while this instance has not written. */
  #end = 0;

  /** Made by the host. */
  constructor({ storage }: { storage: ObjectStorage }) {
    this.#storage = storage;
  }

  /** `GET`, `PUT`, `DELETE` of a record; with the header `x-version` only if that is the record's, empty for none. */
  async fetch(request: Request): Promise<Response> {
    const key = new URL(request.url).pathname;
    // Read whole before the storage is asked: while it is, nothing else of this object runs.
    const value = request.method === "PUT" ? new Uint8Array(await request.arrayBuffer()) : undefined;
    const found = await this.#storage.get(key) as Kept | undefined;
    if (request.method === "GET") {
      return found === undefined
        ? new Response(null, { status: 404 })
        : new Response(found.value, { headers: { [VERSION]: found.version } });
    }
    const expected = request.headers.get(VERSION);
    if (expected !== null && expected !== (found?.version ?? "")) return new Response(null, { status: 412 });
    if (value === undefined) await this.#storage.delete(key);
    else {
      await this.#storage.put(key, { value, version: crypto.randomUUID() });
      const end = Date.now() + 1000 * Number(request.headers.get(TTL));
      if (end > this.#end) await this.#storage.setAlarm(this.#end = end);
    }
    return new Response(null, { status: 204 });
  }

  /** The host calls it at the time that was set. */
  async alarm(): Promise<void> {
    await this.#storage.deleteAll();
  }
}

/**
 * A store over Durable Objects. It lists no sessions: their objects remove them, and `limits.sessions` counts only those
 * that this handler has written.
 *
 * @param namespace a binding to {@linkcode SessionObject}
 */
export function objectStore(namespace: ObjectNamespace): SessionStore {
  const ask = async (
    key: string,
    method: string,
    init: { headers?: Record<string, string>; body?: Uint8Array<ArrayBuffer> } = {},
  ) => {
    const stub = namespace.getByName(key.split(":").slice(0, 2).join(":"));
    const response = await stub.fetch(new Request(`https://session/${key}`, { method, ...init }));
    if (!response.ok && response.status !== 404 && response.status !== 412) {
      throw new Error(`The session's object answered ${response.status}`);
    }
    return response;
  };
  return {
    valueBytes: 100_000, // an object takes 128 KiB
    async read(key) {
      const response = await ask(key, "GET");
      const value = new Uint8Array(await response.arrayBuffer());
      return response.ok ? { value, version: response.headers.get(VERSION)! } : undefined;
    },
    async write(key, value, expectedVersion, { ttl }) {
      const headers = { [VERSION]: expectedVersion ?? "", [TTL]: String(ttl) };
      const response = await ask(key, value === undefined ? "DELETE" : "PUT", {
        headers,
        body: value as Uint8Array<ArrayBuffer> | undefined,
      });
      return response.ok;
    },
    remove: async (key) => void await ask(key, "DELETE"),
    list: () => Promise.resolve([]),
    close: () => Promise.resolve(),
  };
}
