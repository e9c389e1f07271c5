/**
 * Where a checkpoint's files come from: a local folder, or a URL that they lie under.
 *
 * @module
 */
import type { FileHandle } from "node:fs/promises";
import { builtin } from "../core/builtin.ts";
import { rangeError, typeError } from "../core/errors.ts";
import type { ByteReader } from "./safetensors.ts";

const OPERATION = "TransNormerLLM.load";

/** Files by name. */
export interface Source {
  /** The folder or URL as messages name it: without a query, which may carry a key. */
  readonly location: string;
  /**
   * The file, from its beginning; `undefined` when there is none of that name. Hosts that say it in another way
   * than by 404 count as well: a bucket that refuses (401, 403), or a web server that sends its page instead.
   */
  open(name: string): Promise<ByteReader | undefined>;
  /** What came in place of a file that {@linkcode Source.open} did not find; `undefined` where nothing did. */
  instead(name: string): string | undefined;
}

/**
 * The files of a folder or under a URL. A folder and `file:` URLs are read through the file system, everything else
 * through `fetch`.
 *
 * @throws {TypeError} when the location is neither a string nor a URL, or a URL that no file can lie under
 */
export function openSource(
  location: string | URL,
  options: { signal?: AbortSignal; fetch?: typeof fetch; redirects?: readonly string[] },
): Source {
  if (!(location instanceof URL) && typeof location !== "string") {
    typeError(OPERATION, "the location must be a folder's path or a URL", location);
  }
  if (location === "") rangeError(OPERATION, "the location must be a folder's path or a URL", location);
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
export async function reading<T>({ location }: Source, read: () => Promise<T>): Promise<T> {
  try {
    return await read();
  } catch (error) {
    const isOurs = (error instanceof RangeError || error instanceof TypeError) &&
      error.message.startsWith("Cannot run ");
    if (isOurs) error.message += `, in ${location}`;
    throw error;
  }
}

/**
 * Bytes that a file of a checkpoint may have that is read as a whole: a tokenizer of a quarter of a million tokens has
 * half of it, a list of all tensors of the largest models a hundredth.
 */
export const WHOLE_FILE_BYTES: number = 2 ** 26;

/**
 * The whole of a small file; closes the reader. Memory follows the bytes that came, not what a host announces.
 *
 * @throws {RangeError} when it has more bytes than `most`
 */
export async function readAll(
  reader: ByteReader,
  name: string,
  most = WHOLE_FILE_BYTES,
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
      const response = await follow(url, get, redirects, signal);
      if (!response.ok) {
        await response.body?.cancel();
        if (!ABSENT.includes(response.status)) {
          rangeError(OPERATION, `${name} must be readable`, `HTTP status ${response.status}`);
        }
        if (response.status !== 404) came.set(name, `HTTP status ${response.status}`);
        return undefined;
      }
      const reader = await responseReader(response, signal);
      if (!isPage(name, response.headers.get("content-type") ?? "", reader.beginning)) return reader;
      await reader.close();
      came.set(name, "an HTML page");
      return undefined;
    },
  };
}

/** Hosts that store large files under other names of theirs. */
const OWN_HOSTS: Readonly<Record<string, readonly string[]>> = {
  "huggingface.co": [".huggingface.co", ".hf.co"],
};

/** Redirects of one file. */
const REDIRECTS = 5;

/**
 * Asks for a file. Redirects are followed within its host, and to `hosts`: one from elsewhere to a name of this machine
 * would read what only this machine may. Pages cannot look at redirects; there the browser's own rules hold.
 */
async function follow(
  from: URL,
  get: typeof fetch,
  hosts: readonly string[],
  signal?: AbortSignal,
): Promise<Response> {
  const allowed = [...OWN_HOSTS[from.hostname] ?? [], ...hosts];
  let url = from;
  for (let left = REDIRECTS; left >= 0; left--) {
    const response = await silently(url, () => get(url, { signal, redirect: "manual" }), signal);
    if (response.type === "opaqueredirect") return await silently(url, () => get(url, { signal }), signal);
    const target = response.headers.get("location");
    if (response.status < 300 || response.status > 399 || target === null) return response;
    await response.body?.cancel();
    const next = new URL(target, url), { hostname } = next;
    const isAllowed = next.host === from.host ||
      allowed.some((host) => host.startsWith(".") ? hostname.endsWith(host) : hostname === host);
    const keepsSecrecy = next.protocol === from.protocol || next.protocol === "https:";
    if (!isAllowed || !keepsSecrecy) {
      rangeError(
        OPERATION,
        `${withoutQuery(from)} must redirect within its host, or to a host of options.redirects`,
        `${next.protocol}//${next.host}`,
      );
    }
    url = next;
  }
  return rangeError(OPERATION, `${withoutQuery(from)} must redirect at most ${REDIRECTS} times`, "more");
}

/** Errors of a host name the URL with its query: it is taken out. */
async function silently(
  url: URL,
  ask: () => Promise<Response>,
  signal: AbortSignal | undefined,
): Promise<Response> {
  try {
    return await ask();
  } catch (error) {
    if (signal?.aborted || url.search === "") throw error;
    const { name, message, cause } = error as Error;
    const said = [message, (cause as Error | undefined)?.message].filter((text) => text !== undefined).join(
      ": ",
    );
    const safe = new Error(said.replaceAll(url.href, withoutQuery(url)).replaceAll(url.search, ""));
    safe.name = name;
    throw safe;
  }
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

/** A query may carry a key: it stays out of messages. */
function withoutQuery(url: URL): string {
  return url.origin === "null" ? url.href : url.origin + url.pathname;
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
