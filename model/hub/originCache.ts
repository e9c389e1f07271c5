/**
 * The cache in a browser: the page's origin has a file system of its own (OPFS). It has no links, so a snapshot holds
 * small files that name blobs, and an empty file `<hash>.whole` says that a blob is whole.
 *
 *     models--owner--name/refs/main                        the commit, as text
 *     models--owner--name/snapshots/<commit>/config.json   the hash, as text; empty: the commit has no such file
 *     models--owner--name/blobs/<hash>, <hash>.whole
 *
 * @module
 */
import { rangeError } from "../../core/errors.ts";
import type { ByteReader } from "../safetensors.ts";
import type { Cache, Partial } from "./cache.ts";
import type { HubFile } from "./client.ts";

const OPERATION = "TransNormerLLM.load";
const FOLDER = "huggingface", WHOLE = ".whole";

/** What this module uses of the File System API; hosts without it lack the types as well. */
interface Folder {
  getDirectoryHandle(name: string, options?: { create?: boolean }): Promise<Folder>;
  getFileHandle(name: string, options?: { create?: boolean }): Promise<StoredFile>;
  removeEntry(name: string): Promise<void>;
}

interface StoredFile {
  getFile(): Promise<Blob>;
  createWritable(options?: { keepExistingData?: boolean }): Promise<{
    write(data: string | { type: "write"; position: number; data: Uint8Array<ArrayBuffer> }): Promise<void>;
    close(): Promise<void>;
  }>;
}

interface Browser {
  readonly storage?: { getDirectory?(): Promise<Folder> };
  readonly locks?: { request(name: string, body: () => Promise<void>): Promise<void> };
}

/** See the module. */
export class OriginCache implements Cache {
  readonly location = "this page's storage";
  readonly #repo: string;
  readonly #folder: Folder;
  readonly #browser: Browser;

  constructor(repo: string, folder: Folder, browser: Browser) {
    this.#repo = repo;
    this.#folder = folder;
    this.#browser = browser;
  }

  /** The cache of a model; undefined where pages have no files that they can write, as without TLS. */
  static async open(repo: string): Promise<OriginCache | undefined> {
    const { navigator: browser, FileSystemFileHandle: handles } = globalThis as {
      navigator?: Browser;
      FileSystemFileHandle?: { prototype: object };
    };
    if (browser?.storage?.getDirectory === undefined || browser.locks === undefined) return undefined;
    if (handles === undefined || !("createWritable" in handles.prototype)) return undefined;
    let folder = await browser.storage.getDirectory();
    for (const name of [FOLDER, `models--${repo.replace("/", "--")}`]) {
      folder = await folder.getDirectoryHandle(name, { create: true });
    }
    return new OriginCache(repo, folder, browser);
  }

  async commit(revision: string): Promise<string | undefined> {
    return await this.#text(`refs/${revision}`);
  }

  async setCommit(revision: string, commit: string): Promise<void> {
    await this.#write(`refs/${revision}`, commit);
  }

  async open(commit: string, name: string): Promise<ByteReader | undefined> {
    const oid = await this.#text(`snapshots/${commit}/${name}`);
    if (!oid || await this.#file(`blobs/${oid}${WHOLE}`) === undefined) return undefined;
    const blob = await (await this.#file(`blobs/${oid}`))!.getFile();
    let at = 0;
    const reader = {
      size: blob.size,
      async readAt(position: number, target: Uint8Array<ArrayBuffer>): Promise<number> {
        const bytes = await blob.slice(position, position + target.length).arrayBuffer();
        target.set(new Uint8Array(bytes));
        return bytes.byteLength;
      },
      async read(target: Uint8Array<ArrayBuffer>): Promise<number> {
        const filled = await reader.readAt(at, target);
        at += filled;
        return filled;
      },
      async close() {},
    };
    return reader;
  }

  async lacks(commit: string, name: string): Promise<boolean> {
    return await this.#text(`snapshots/${commit}/${name}`) === "";
  }

  async setLacking(commit: string, name: string): Promise<void> {
    await this.#write(`snapshots/${commit}/${name}`, "");
  }

  async link(commit: string, { name, oid }: HubFile): Promise<boolean> {
    if (await this.#file(`blobs/${oid}${WHOLE}`) === undefined) return false;
    await this.#write(`snapshots/${commit}/${name}`, oid);
    return true;
  }

  async withPartial(file: HubFile, body: (partial: Partial) => Promise<void>): Promise<void> {
    const { oid } = file;
    await this.#browser.locks!.request(`levin ${this.#repo} ${oid}`, async () => {
      if (await this.#file(`blobs/${oid}${WHOLE}`) !== undefined) return; // another page has been here
      const handle = (await this.#file(`blobs/${oid}`, { create: true }))!;
      const before = await handle.getFile();
      // What is written counts when the stream is closed: so also when the download fails.
      const stream = await handle.createWritable({ keepExistingData: true });
      let at = before.size, isOpen = true;
      const close = async () => {
        if (isOpen) await stream.close();
        isOpen = false;
      };
      try {
        await body({
          size: before.size,
          read: () => piecesOf(before),
          async write(data) {
            await stream.write({ type: "write", position: at, data });
            at += data.length;
          },
          finish: async () => {
            await close();
            await this.#write(`blobs/${oid}${WHOLE}`, "");
          },
          discard: async () => {
            await close();
            await (await this.#in("blobs"))!.removeEntry(oid);
          },
        });
      } catch (error) {
        if ((error as Error).name === "QuotaExceededError") {
          const room = `the browser must have room for ${file.name}, ${file.size} bytes`;
          rangeError(OPERATION, room, (error as Error).message);
        }
        throw error;
      } finally {
        await close();
      }
    });
  }

  /** A folder; undefined if it does not exist. */
  async #in(path: string, options?: { create: boolean }): Promise<Folder | undefined> {
    let folder = this.#folder;
    for (const name of path.split("/")) {
      const next = await unlessAbsent(folder.getDirectoryHandle(name, options));
      if (next === undefined) return undefined;
      folder = next;
    }
    return folder;
  }

  async #file(path: string, options?: { create: boolean }): Promise<StoredFile | undefined> {
    const end = path.lastIndexOf("/");
    const folder = await this.#in(path.slice(0, end), options);
    return folder && await unlessAbsent(folder.getFileHandle(path.slice(end + 1), options));
  }

  async #text(path: string): Promise<string | undefined> {
    const file = await this.#file(path);
    return file && await (await file.getFile()).text();
  }

  async #write(path: string, text: string): Promise<void> {
    const stream = await (await this.#file(path, { create: true }))!.createWritable();
    await stream.write(text);
    await stream.close();
  }
}

async function* piecesOf(blob: Blob): AsyncGenerator<Uint8Array> {
  const reader = blob.stream().getReader();
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    yield value;
  }
}

async function unlessAbsent<T>(promise: Promise<T>): Promise<T | undefined> {
  try {
    return await promise;
  } catch (error) {
    if ((error as Error).name === "NotFoundError") return undefined;
    throw error;
  }
}
