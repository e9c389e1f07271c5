/**
 * Where a checkpoint's files come from: a local folder, a URL that they lie under, or a model on the Hugging Face hub.
 *
 * @module
 */
import type { FileHandle } from "node:fs/promises";
import { builtin } from "../core/builtin.ts";
import { rangeError, typeError } from "../core/errors.ts";
import { parseId } from "./hub/id.ts";
import { follow, withoutQuery } from "./redirects.ts";
import type { ByteReader } from "./safetensors.ts";
import { WHOLE_FILE_BYTES } from "./stored.ts";

const OPERATION = "TransNormerLLM.load";

/** Files by name. */
export interface Source {
  /** The folder, URL or model on the hub as messages name it: without a query, which may carry a key. */
  readonly location: string;
  /**
   * The file, from its beginning; `undefined` when there is none of that name. Hosts that say it in another way
   * than by 404 count as well: a bucket that refuses (401, 403), or a web server that sends its page instead.
   */
  open(name: string): Promise<ByteReader | undefined>;
  /** Names of the files in a folder next to the checkpoint's files; absent where they cannot be listed. */
  list?(folder: string): Promise<string[]>;
  /** What came in place of a file that {@linkcode Source.open} did not find; `undefined` where nothing did. */
  instead(name: string): string | undefined;
}

/** A file on its way from the hub to the cache. */
export interface DownloadProgress {
  /** Its name. */
  readonly file: string;
  /** Bytes that are here, with those that an earlier download left. */
  readonly bytes: number;
  /** Its size in bytes. */
  readonly totalBytes: number;
}

/** What a source from the hub needs to know. */
export interface HubOptions {
  /** A branch, a tag or a commit of a model on the hub. Default: `main`. */
  revision?: string;
  /** The key to private and gated models on the hub. Default: `HF_TOKEN`, or the token that `hf auth login` stored. */
  token?: string;
  /**
   * Hosts that a remote checkpoint may redirect to, besides its own; one that begins with a dot stands for all names that
   * end with it. Default: none, but for Hugging Face its own stores.
   */
  redirects?: readonly string[];
  /** Called as bytes of a model on the hub come. What the cache holds is not downloaded. */
  onDownload?: (progress: DownloadProgress) => void;
  /** Stops reading; its reason is thrown. */
  signal?: AbortSignal;
  /** Used instead of the global `fetch`; then also for `file:` URLs. */
  fetch?: typeof fetch;
}

/**
 * The files of a folder, under a URL or of a model on the hub. A folder and `file:` URLs are read through the file
 * system, everything else through `fetch`. A folder wins over a model on the hub of that name.
 *
 * @throws {TypeError} when the location is neither a string nor a URL, or a URL that no file can lie under
 * @throws {RangeError} when it is empty, or options.revision does not go with it
 */
export function openSource(location: string | URL, options: HubOptions): Source {
  if (!(location instanceof URL) && typeof location !== "string") {
    typeError(
      OPERATION,
      "the location must be a folder's path, a URL or the id of a model on the hub",
      location,
    );
  }
  if (location === "") {
    rangeError(
      OPERATION,
      "the location must be a folder's path, a URL or the id of a model on the hub",
      location,
    );
  }
  const id = typeof location === "string" ? parseId(location, options.revision) : undefined;
  if (id !== undefined) {
    return later(String(location), async () => {
      if (!String(location).startsWith("hf:") && await isFolder(String(location))) {
        refuseRevision(options.revision);
        return folder(location, String(location), options.signal);
      }
      const { openHub } = await import("./hub/mod.ts");
      return await openHub(id, options, folder);
    });
  }
  refuseRevision(options.revision);
  const isUrl = location instanceof URL || /^[a-z][a-z0-9+.-]+:/i.test(location);
  if (!isUrl) return folder(location, location, options.signal);
  const url = new URL(location);
  if (url.protocol === "blob:" || url.protocol === "data:") {
    typeError(OPERATION, "the location must be a URL that files can lie under, such as https:", url.protocol);
  }
  if (!url.pathname.endsWith("/")) url.pathname += "/";
  return url.protocol === "file:" && options.fetch === undefined
    ? folder(url, url.href, options.signal)
    : remote(url, options.fetch ?? fetch, options.redirects ?? [], options.signal);
}

/** A source that is made when a file is first asked for. */
function later(location: string, make: () => Promise<Source>): Source {
  let making: Promise<Source> | undefined, made: Source | undefined;
  return {
    get location() {
      return made?.location ?? location;
    },
    instead: (name) => made?.instead(name),
    async open(name) {
      made = await (making ??= make());
      return await made.open(name);
    },
  };
}

function refuseRevision(revision: string | undefined): void {
  if (revision === undefined) return;
  rangeError(OPERATION, "options.revision must be absent unless the model is on the hub", revision);
}

async function isFolder(path: string): Promise<boolean> {
  const fileSystem = builtin("node:fs/promises") as typeof import("node:fs/promises") | undefined;
  try {
    return (await fileSystem?.stat(path))?.isDirectory() ?? false;
  } catch (error) {
    if (["ENOENT", "ENOTDIR"].includes((error as { code?: string }).code ?? "")) return false;
    throw error;
  }
}

/**
 * The file, which must be there.
 *
 * @throws {RangeError} when it is not; the message says what came instead
 */
export async function openRequired(source: Source, name: string): Promise<ByteReader> {
  return await source.open(name) ?? absent(source, [name]);
}

/** Throws the error for a file that must be there, under one of several names. */
export function absent(source: Source, names: readonly string[]): never {
  const came = names.map((name) => source.instead(name)).find((came) => came !== undefined);
  if (came !== undefined) rangeError(OPERATION, `${names.join(" or ")} must be readable`, came);
  return rangeError(OPERATION, `the checkpoint must have ${names.join(" or ")}`, undefined);
}

/**
 * Runs what reads from a source. Errors of the library that leave it say where the files are.
 *
 * @throws what `read` throws
 */
export async function reading<T>(source: Source, read: () => Promise<T>): Promise<T> {
  try {
    return await read();
  } catch (error) {
    const isOurs = (error instanceof RangeError || error instanceof TypeError) &&
      error.message.startsWith("Cannot run ");
    if (isOurs) error.message += `, in ${source.location}`;
    throw error;
  }
}

/**
 * The whole of a small file; closes the reader. Memory follows the bytes that came, not what a host announces.
 *
 * @throws {RangeError} when it has more bytes than `most`
 */
export async function readAll(
  reader: ByteReader,
  name: string,
  most: number = WHOLE_FILE_BYTES,
): Promise<Uint8Array<ArrayBuffer>> {
  const tooLarge = (size: number | string) =>
    rangeError(OPERATION, `${name} must have at most ${most} bytes`, size);
  try {
    if (reader.size !== undefined && reader.size > most) tooLarge(reader.size);
    let bytes = new Uint8Array(Math.min(reader.size ?? 65536, 2 ** 20) + 1), filled = 0;
    for (;;) {
      filled += await reader.read(bytes.subarray(filled));
      if (filled > most) tooLarge("more");
      if (filled < bytes.length) return bytes.subarray(0, filled);
      const longer = new Uint8Array(Math.min(2 * bytes.length, most) + 1);
      longer.set(bytes);
      bytes = longer;
    }
  } finally {
    await reader.close();
  }
}

/** Local files, read in pieces so that an abort is noticed within a large tensor. */
function folder(folder: string | URL, location: string, signal?: AbortSignal): Source {
  return {
    location,
    instead: () => undefined,
    async list(name) {
      const fileSystem = builtin("node:fs/promises") as typeof import("node:fs/promises") | undefined;
      try {
        return await fileSystem?.readdir(
          folder instanceof URL ? new URL(name, folder) : `${folder}/${name}`,
        ) ?? [];
      } catch (error) {
        if (["ENOENT", "ENOTDIR"].includes((error as { code?: string }).code ?? "")) return [];
        throw error;
      }
    },
    async open(name) {
      const fileSystem = builtin("node:fs/promises") as typeof import("node:fs/promises") | undefined;
      if (fileSystem === undefined) {
        rangeError(OPERATION, "the location must be a URL where the host has no files", location);
      }
      let file: FileHandle;
      try {
        file = await fileSystem.open(
          folder instanceof URL ? new URL(name, folder) : `${folder}/${name}`,
          "r",
        );
      } catch (error) {
        // ENOTDIR: the "folder" is a file.
        if (["ENOENT", "ENOTDIR"].includes((error as { code?: string }).code ?? "")) return undefined;
        throw error;
      }
      const piece = 2 ** 24;
      return {
        size: (await file.stat()).size,
        async read(target) {
          let filled = 0;
          while (filled < target.length) {
            signal?.throwIfAborted();
            const { bytesRead } = await file.read(target, filled, Math.min(piece, target.length - filled));
            if (bytesRead === 0) break;
            filled += bytesRead;
          }
          return filled;
        },
        async readAt(position, target) {
          let filled = 0;
          while (filled < target.length) {
            signal?.throwIfAborted();
            const length = Math.min(piece, target.length - filled);
            const { bytesRead } = await file.read(target, filled, length, position + filled);
            if (bytesRead === 0) break;
            filled += bytesRead;
          }
          return filled;
        },
        close: () => file.close(),
      };
    },
  };
}

/** Statuses that hosts give for a file that is not there; a bucket without permission to list refuses. */
const ABSENT: readonly number[] = [401, 403, 404, 410];

/** Files under a URL, streamed once from beginning to end. */
function remote(
  base: URL,
  get: typeof fetch,
  redirects: readonly string[],
  signal?: AbortSignal,
): Source {
  const came = new Map<string, string>();
  return {
    location: withoutQuery(base),
    instead: (name) => came.get(name),
    async open(name) {
      const url = new URL(name, base);
      url.search = base.search; // a signed location signs its files
      const response = await follow(url, get, { hosts: redirects, signal });
      if (!response.ok) {
        await response.body?.cancel();
        if (!ABSENT.includes(response.status)) {
          rangeError(OPERATION, `${name} must be readable`, `HTTP status ${response.status}`);
        }
        if (response.status !== 404) came.set(name, `HTTP status ${response.status}`);
        return undefined;
      }
      const reader = await responseReader(response, signal);
      if (!isPage(name, response.headers.get("content-type") ?? "", reader.beginning)) {
        const ranges = response.headers.get("accept-ranges")?.toLowerCase() === "bytes";
        if (!ranges) return reader;
        const from = (headers: Record<string, string>) =>
          follow(url, get, { hosts: redirects, headers, signal });
        return anywhere(reader, from, name, signal);
      }
      await reader.close();
      came.set(name, "an HTML page");
      return undefined;
    },
  };
}

/** Bytes that show what a file is. */
const BEGINNING = 256;

/**
 * Whether a page came in place of a file. What it begins with decides: there are servers that call every file
 * `text/html`.
 */
function isPage(name: string, contentType: string, beginning: Uint8Array): boolean {
  const text = new TextDecoder().decode(beginning).trimStart();
  if (/^(<!--[^]*?-->\s*)?<(!doctype\s+html|html[\s>]|head[\s>]|\?xml\s)/i.test(text)) return true;
  if (!/^text\/html\b/i.test(contentType)) return false;
  return name.endsWith(".json") ? !/^[{[]/.test(text) : /^<[a-z!]/i.test(text);
}

async function responseReader(
  response: Response,
  signal?: AbortSignal,
): Promise<ByteReader & { readonly beginning: Uint8Array }> {
  const reader = response.body?.getReader();
  const length = response.headers.get("content-length");
  let rest = new Uint8Array(0), hasEnded = reader === undefined;
  /** The next bytes that come; false at the end. */
  const more = async () => {
    signal?.throwIfAborted();
    const next = hasEnded ? undefined : await reader!.read();
    if (next === undefined || next.done) return !(hasEnded = true);
    if (rest.length === 0) rest = next.value;
    else {
      const both = new Uint8Array(rest.length + next.value.length);
      both.set(rest);
      both.set(next.value, rest.length);
      rest = both;
    }
    return true;
  };
  while (rest.length < BEGINNING && await more());
  return {
    beginning: rest.subarray(0, BEGINNING),
    // With a content encoding, content-length counts other bytes than those that arrive here.
    size: length === null || response.headers.has("content-encoding") ? undefined : Number(length),
    async read(target) {
      let filled = 0;
      while (filled < target.length) {
        signal?.throwIfAborted();
        if (rest.length === 0 && !await more()) break;
        const taken = rest.subarray(0, target.length - filled);
        target.set(taken, filled);
        filled += taken.length;
        rest = rest.subarray(taken.length);
      }
      return filled;
    },
    async close() {
      await reader?.cancel();
    },
  };
}

/** Bytes that are read and dropped rather than asking for a later range. */
const SKIPPED = 2 ** 16;

/**
 * Adds `readAt` to what a server sends that answers range requests. A response is read on as long as positions follow
 * each other, so that tensors read in the order of their file cost few requests.
 */
function anywhere(
  first: ByteReader,
  get: (headers: Record<string, string>) => Promise<Response>,
  name: string,
  signal?: AbortSignal,
): ByteReader {
  const { size } = first;
  if (size === undefined) return first;
  let current: ByteReader | undefined = first, at = 0;
  const dropped = new Uint8Array(SKIPPED);
  return {
    size,
    read: (target) => first.read(target),
    async readAt(position, target) {
      if (current === undefined || position < at || position - at > SKIPPED) {
        await current?.close();
        current = undefined;
        if (position >= size || target.length === 0) return 0;
        const response = await get({ range: `bytes=${position}-` });
        const range = response.headers.get("content-range") ?? `bytes ${position}-${size - 1}/${size}`;
        if (response.status !== 206 || range !== `bytes ${position}-${size - 1}/${size}`) {
          await response.body?.cancel();
          const came = response.status === 206 ? `range ${range}` : `HTTP status ${response.status}`;
          rangeError(OPERATION, `${name} must be readable from byte ${position} of ${size}`, came);
        }
        current = await responseReader(response, signal);
        at = position;
      }
      while (at < position) {
        const skipped = await current.read(dropped.subarray(0, position - at));
        if (skipped === 0) return 0;
        at += skipped;
      }
      const filled = await current.read(target);
      at += filled;
      return filled;
    },
    async close() {
      await current?.close();
    },
  };
}
