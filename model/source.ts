/**
 * Where a checkpoint's files come from: a local folder, or a URL that they lie under.
 *
 * @module
 */
import type { FileHandle } from "node:fs/promises";
import { rangeError, typeError } from "../core/errors.ts";
import type { ByteReader } from "./safetensors.ts";

const OPERATION = "TransNormerLLM.load";

/** Files by name. */
export interface Source {
  /** The file, from its beginning; `undefined` when there is none of that name. */
  open(name: string): Promise<ByteReader | undefined>;
}

/**
 * The files of a folder or under a URL. A folder and `file:` URLs are read through the file system, everything else
 * through `fetch`.
 *
 * @throws {TypeError} when the location is neither a string nor a URL, or a URL that no file can lie under
 */
export function openSource(
  location: string | URL,
  options: { signal?: AbortSignal; fetch?: typeof fetch },
): Source {
  if (!(location instanceof URL) && typeof location !== "string") {
    typeError(OPERATION, "the location must be a folder's path or a URL", location);
  }
  if (location === "") rangeError(OPERATION, "the location must be a folder's path or a URL", location);
  const isUrl = location instanceof URL || /^[a-z][a-z0-9+.-]+:/i.test(location);
  if (!isUrl) return folder(location, options.signal);
  const url = new URL(location);
  if (url.protocol === "blob:" || url.protocol === "data:") {
    typeError(OPERATION, "the location must be a URL that files can lie under, such as https:", url.protocol);
  }
  if (!url.pathname.endsWith("/")) url.pathname += "/";
  return url.protocol === "file:" && options.fetch === undefined
    ? folder(url, options.signal)
    : remote(url, options.fetch ?? fetch, options.signal);
}

/** The whole of a small file; closes the reader. */
export async function readAll(reader: ByteReader): Promise<Uint8Array<ArrayBuffer>> {
  try {
    let bytes = new Uint8Array(reader.size ?? 65536), filled = 0;
    for (;;) {
      filled += await reader.read(bytes.subarray(filled));
      if (filled < bytes.length) return bytes.subarray(0, filled);
      const longer = new Uint8Array(2 * bytes.length + 1);
      longer.set(bytes);
      bytes = longer;
    }
  } finally {
    await reader.close();
  }
}

/** Local files, read in pieces so that an abort is noticed within a large tensor. */
function folder(location: string | URL, signal?: AbortSignal): Source {
  return {
    async open(name) {
      // Only here: browsers and edge isolates have no file system to import.
      const { open } = await import("node:fs/promises");
      let file: FileHandle;
      try {
        file = await open(location instanceof URL ? new URL(name, location) : `${location}/${name}`, "r");
      } catch (error) {
        if ((error as { code?: string }).code === "ENOENT") return undefined;
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

/** Files under a URL, streamed once from beginning to end. */
function remote(base: URL, get: typeof fetch, signal?: AbortSignal): Source {
  return {
    async open(name) {
      const url = new URL(name, base);
      url.search = base.search; // a signed location signs its files
      const response = await get(url, { signal });
      if (response.status === 404) {
        await response.body?.cancel();
        return undefined;
      }
      if (!response.ok) {
        await response.body?.cancel();
        rangeError(
          OPERATION,
          `${name} must be readable`,
          `HTTP status ${response.status}`,
          withoutQuery(url),
        );
      }
      return responseReader(response, signal);
    },
  };
}

/** A query may carry a key: it stays out of messages. */
function withoutQuery(url: URL): string {
  return url.origin === "null" ? url.href : url.origin + url.pathname;
}

function responseReader(response: Response, signal?: AbortSignal): ByteReader {
  const reader = response.body?.getReader();
  const length = response.headers.get("content-length");
  let rest = new Uint8Array(0);
  return {
    // With a content encoding, content-length counts other bytes than those that arrive here.
    size: length === null || response.headers.has("content-encoding") ? undefined : Number(length),
    async read(target) {
      let filled = 0;
      while (filled < target.length) {
        signal?.throwIfAborted();
        if (rest.length === 0) {
          const next = await reader?.read();
          if (next === undefined || next.done) break;
          rest = next.value;
        }
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
