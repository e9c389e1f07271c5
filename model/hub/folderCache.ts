/**
 * The cache as a folder, laid out as Python's `huggingface_hub` does it
 * (https://huggingface.co/docs/hub/local-cache), so that each finds what the other downloaded:
 *
 *     models--owner--name/refs/main                      the commit, as text
 *     models--owner--name/snapshots/<commit>/config.json   a link to ../../blobs/<hash>
 *     models--owner--name/.no_exist/<commit>/tokenizer.json  empty: the commit has no such file
 *     models--owner--name/blobs/<hash>
 *     models--owner--name/blobs/<hash>.<random>.incomplete   a download that was cut; nothing takes it for a blob
 *
 * Where links may not be made, as in Deno with the permission to write to this folder alone, names in snapshots are second
 * names of the blobs (hard links).
 *
 * Processes share it without locks. Who downloads owns the file it writes: it takes over what an earlier download left by
 * renaming it, which only one process can do. If that download still lives, both write the same bytes at the same
 * positions; the one that finds its file gone at the end looks for the blob again.
 *
 * @module
 */
import type { FileHandle } from "node:fs/promises";
import { builtin } from "../../core/builtin.ts";
import { rangeError } from "../../core/errors.ts";
import type { ByteReader } from "../safetensors.ts";
import type { Cache, Partial } from "./cache.ts";
import type { HubFile } from "./client.ts";

const OPERATION = "TransNormerLLM.load";
/** The ending of a download's name. */
const PARTIAL = ".incomplete";
/** Bytes read at a time of what an earlier download left. */
const PIECE = 2 ** 22;

type FileSystem = typeof import("node:fs/promises");

/** Files of a folder as the library reads them. */
export type OpenFolder = (
  folder: string,
  location: string,
  signal?: AbortSignal,
) => { open(name: string): Promise<ByteReader | undefined> };

/** See the module. */
export class FolderCache implements Cache {
  readonly location: string;
  readonly #folder: string;
  readonly #files: FileSystem;
  readonly #openFolder: OpenFolder;
  readonly #signal: AbortSignal | undefined;

  /** @param files the file system; tests have others than the host's */
  constructor(
    location: string,
    repo: string,
    { openFolder, signal, files = builtin("node:fs/promises") as FileSystem }: {
      openFolder: OpenFolder;
      signal?: AbortSignal;
      files?: FileSystem;
    },
  ) {
    this.location = location;
    this.#folder = `${location}/models--${repo.replace("/", "--")}`;
    this.#files = files;
    this.#openFolder = openFolder;
    this.#signal = signal;
  }

  async commit(revision: string): Promise<string | undefined> {
    const text = await unlessAbsent(this.#files.readFile(`${this.#folder}/refs/${revision}`, "utf8"));
    const commit = text?.trim();
    return commit !== undefined && /^[0-9a-f]{40}$/.test(commit) ? commit : undefined;
  }

  async setCommit(revision: string, commit: string): Promise<void> {
    if (await this.commit(revision) === commit) return;
    await ifWritable(this.#write(`${this.#folder}/refs/${revision}`, commit));
  }

  async open(commit: string, name: string): Promise<ByteReader | undefined> {
    const snapshot = `${this.#folder}/snapshots/${commit}`;
    return await this.#openFolder(snapshot, this.location, this.#signal).open(name);
  }

  async lacks(commit: string, name: string): Promise<boolean> {
    return await this.#exists(`${this.#folder}/.no_exist/${commit}/${name}`);
  }

  async setLacking(commit: string, name: string): Promise<void> {
    await ifWritable(this.#write(`${this.#folder}/.no_exist/${commit}/${name}`, ""));
  }

  async link(commit: string, { name, oid }: HubFile): Promise<boolean> {
    if (!await this.#exists(this.#blob(oid))) return false;
    const snapshot = `${this.#folder}/snapshots/${commit}`, path = `${snapshot}/${name}`;
    await this.#files.mkdir(snapshot, { recursive: true });
    const made = `${path}.${crypto.randomUUID()}`;
    try {
      await this.#files.symlink(`../../blobs/${oid}`, made);
    } catch (error) {
      if (!isRefused(error)) throw error;
      // Windows without the right to make links, or Deno with the permission to write to the cache alone.
      await this.#files.link(this.#blob(oid), made);
    }
    await this.#files.rename(made, path);
    await this.#files.rm(made, { force: true }); // a rename of one name of a file to another of it does nothing
    return true;
  }

  async withPartial(file: HubFile, body: (partial: Partial) => Promise<void>): Promise<void> {
    await this.#files.mkdir(`${this.#folder}/blobs`, { recursive: true });
    const path = `${this.#blob(file.oid)}.${crypto.randomUUID()}${PARTIAL}`;
    const handle = await this.#openPartial(file.oid, path);
    try {
      const { size } = await handle.stat();
      await body({
        size,
        read: () => piecesOf(handle, size),
        write: (() => {
          let at = size;
          return async (bytes) => {
            for (let done = 0; done < bytes.length;) {
              const { bytesWritten } = await handle.write(bytes, done, bytes.length - done, at);
              done += bytesWritten;
              at += bytesWritten;
            }
          };
        })(),
        finish: async () => {
          await handle.sync();
          await handle.close();
          await unlessAbsent(this.#files.rename(path, this.#blob(file.oid)));
        },
        discard: async () => {
          await handle.close();
          await this.#files.rm(path, { force: true });
        },
      });
    } catch (error) {
      if (["ENOSPC", "EDQUOT", "EFBIG"].includes(codeOf(error) ?? "")) {
        const room = `the cache must have room for ${file.name}, ${file.size} bytes`;
        rangeError(OPERATION, room, (error as Error).message, this.location);
      }
      throw error;
    } finally {
      await handle.close();
    }
  }

  /** The file at `path`, with what an earlier download of a blob left. */
  async #openPartial(oid: string, path: string): Promise<FileHandle> {
    for (;;) {
      const isTaken = await this.#takeOver(oid, path);
      try {
        return await this.#files.open(path, isTaken ? "r+" : "wx+");
      } catch (error) {
        // Another download took it over in the meantime.
        if (!isTaken || codeOf(error) !== "ENOENT") throw error;
      }
    }
  }

  /** Makes what an earlier download of a blob left the file at `path`; false if there is nothing. */
  async #takeOver(oid: string, path: string): Promise<boolean> {
    for (const name of await this.#files.readdir(`${this.#folder}/blobs`)) {
      if (!name.startsWith(`${oid}.`) || !name.endsWith(PARTIAL) || name === oid + PARTIAL) continue;
      try {
        await this.#files.rename(`${this.#folder}/blobs/${name}`, path);
        return true;
      } catch (error) {
        // Another process was faster, or, on Windows, still has it open.
        if (!["ENOENT", "EPERM", "EBUSY", "EACCES"].includes(codeOf(error) ?? "")) throw error;
      }
    }
    return false;
  }

  #blob(oid: string): string {
    return `${this.#folder}/blobs/${oid}`;
  }

  async #exists(path: string): Promise<boolean> {
    return await unlessAbsent(this.#files.stat(path)) !== undefined;
  }

  /** Writes a small file, which is never seen half. */
  async #write(path: string, text: string): Promise<void> {
    await this.#files.mkdir(path.slice(0, path.lastIndexOf("/")), { recursive: true });
    const made = `${path}.${crypto.randomUUID()}`;
    await this.#files.writeFile(made, text);
    await this.#files.rename(made, path);
  }
}

async function* piecesOf(handle: FileHandle, size: number): AsyncGenerator<Uint8Array> {
  const piece = new Uint8Array(PIECE);
  for (let at = 0; at < size;) {
    const { bytesRead } = await handle.read(piece, 0, Math.min(PIECE, size - at), at);
    if (bytesRead === 0) return;
    yield piece.subarray(0, bytesRead);
    at += bytesRead;
  }
}

/** What the promise gives; undefined if the file it is about does not exist. */
async function unlessAbsent<T>(promise: Promise<T>): Promise<T | undefined> {
  try {
    return await promise;
  } catch (error) {
    if (["ENOENT", "ENOTDIR"].includes(codeOf(error) ?? "")) return undefined;
    throw error;
  }
}

/** A write that only saves questions: a cache that others own, read-only, serves without it. */
async function ifWritable(write: Promise<void>): Promise<void> {
  try {
    await write;
  } catch (error) {
    if (!isRefused(error)) throw error;
  }
}

/** Whether the system, or Deno, does not allow it. */
function isRefused(error: unknown): boolean {
  return ["EACCES", "EPERM", "EROFS"].includes(codeOf(error) ?? "") || (error as Error).name === "NotCapable";
}

function codeOf(error: unknown): string | undefined {
  return (error as { code?: string } | null | undefined)?.code;
}
