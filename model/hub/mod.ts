/**
 * Models on the Hugging Face hub as a source of files. What a model needs is downloaded once, file by file, into the cache
 * that the host has; size and hash are checked; what a broken connection left is continued. A host without a cache gets
 * the bytes as they come.
 *
 * Imported only when a location is an id.
 *
 * @module
 */
import { builtin } from "../../core/builtin.ts";
import { rangeError } from "../../core/errors.ts";
import type { ByteReader } from "../safetensors.ts";
import type { DownloadProgress, HubOptions, Source } from "../source.ts";
import { WHOLE_FILE_BYTES } from "../stored.ts";
import type { Cache } from "./cache.ts";
import { HubClient, type HubFile, Unreachable } from "./client.ts";
import { type Digest, digestOf } from "./digest.ts";
import { FolderCache, type OpenFolder } from "./folderCache.ts";
import type { HubId } from "./id.ts";
import { OriginCache } from "./originCache.ts";
import { readSettings } from "./settings.ts";

const OPERATION = "TransNormerLLM.load";
/** The revision where none is asked for. */
const MAIN = "main";

/** The files of a model on the hub; `openFolder` reads the cache where that is a folder. */
export async function openHub(id: HubId, options: HubOptions, openFolder: OpenFolder): Promise<Source> {
  const settings = await readSettings(options.token);
  const { cacheFolder, endpoint, offline } = settings;
  const cache = builtin("node:fs/promises") === undefined
    ? await OriginCache.open(id.repo)
    : cacheFolder === undefined
    ? undefined
    : new FolderCache(cacheFolder, id.repo, { openFolder, signal: options.signal });
  return new HubSource(id, new HubClient(id, settings, options), cache, { ...options, endpoint, offline });
}

/** See {@linkcode openHub}. */
class HubSource implements Source {
  readonly location: string;
  readonly #revision: string;
  readonly #client: HubClient;
  readonly #cache: Cache | undefined;
  readonly #options: HubOptions & { endpoint: string; offline: boolean };
  readonly #came = new Map<string, string>();
  /** Why the hub is not asked any more. */
  #silence: string | undefined;
  #commit: Promise<string> | undefined;
  #files: Promise<Map<string, HubFile> | undefined> | undefined;

  constructor(
    { repo, revision = MAIN }: HubId,
    client: HubClient,
    cache: Cache | undefined,
    options: HubOptions & { endpoint: string; offline: boolean },
  ) {
    this.location = `hf:${repo}@${revision}`;
    this.#revision = revision;
    this.#client = client;
    this.#cache = cache;
    this.#options = options;
    if (options.offline) this.#silence = "HF_HUB_OFFLINE is set";
  }

  instead(name: string): string | undefined {
    return this.#came.get(name);
  }

  async open(name: string): Promise<ByteReader | undefined> {
    const commit = await (this.#commit ??= this.#resolve().catch((error) => {
      this.#commit = undefined; // another file may have more luck
      throw error;
    }));
    const here = await this.#cache?.open(commit, name);
    if (here !== undefined) return here;
    if (await this.#cache?.lacks(commit, name)) return undefined;
    const files = await (this.#files ??= this.#list(commit).catch((error) => {
      this.#files = undefined;
      throw error;
    }));
    if (files === undefined) {
      this.#came.set(name, `nothing, as ${this.#cache?.location} lacks it and ${this.#silence}`);
      return undefined;
    }
    const file = files.get(name);
    if (file === undefined) {
      await this.#cache?.setLacking(commit, name);
      return undefined;
    }
    // What is read as a whole is refused before it fills the cache.
    if (/\.(json|jinja|model|tiktoken|txt)$/.test(name) && file.size > WHOLE_FILE_BYTES) {
      rangeError(OPERATION, `${name} must have at most ${WHOLE_FILE_BYTES} bytes`, file.size);
    }
    try {
      if (this.#cache === undefined) return streamed(this.#client, commit, file, this.#options);
      while (!await this.#cache.link(commit, file)) await this.#download(this.#cache, commit, file);
      return await this.#cache.open(commit, name);
    } catch (error) {
      if (!(error instanceof Unreachable)) throw error;
      return rangeError(OPERATION, `${this.#options.endpoint} must give ${name}`, error.message);
    }
  }

  /** The commit that the revision names: as the hub says, or, where it cannot be asked, as it said last. */
  async #resolve(): Promise<string> {
    if (/^[0-9a-f]{40}$/.test(this.#revision)) return this.#revision;
    if (this.#silence === undefined) {
      try {
        const commit = await this.#client.commit(this.#revision);
        await this.#cache?.setCommit(this.#revision, commit);
        return commit;
      } catch (error) {
        if (!(error instanceof Unreachable)) throw error;
        this.#silence = error.message;
      }
    }
    const commit = await this.#cache?.commit(this.#revision);
    if (commit !== undefined) return commit;
    const cached = this.#cache === undefined ? "" : `be in the cache, ${this.#cache.location}, or `;
    const expected =
      `${this.location} must ${cached}be on ${this.#options.endpoint}, which must be reachable`;
    return rangeError(OPERATION, expected, this.#silence);
  }

  /** The files of the commit; undefined where the hub cannot be asked and never could be. */
  async #list(commit: string): Promise<Map<string, HubFile> | undefined> {
    if (this.#silence !== undefined) return undefined;
    try {
      return await this.#client.files(commit);
    } catch (error) {
      if (!(error instanceof Unreachable)) throw error;
      this.#silence = error.message;
      // Of a branch the hub has just told the commit: then files may be missing that the model has.
      if (commit === this.#revision) return undefined;
      return rangeError(
        OPERATION,
        `${this.#options.endpoint} must list the files of ${this.location}`,
        error.message,
      );
    }
  }

  /** Brings a file into the cache, unless another process takes the download over. */
  async #download(cache: Cache, commit: string, file: HubFile): Promise<void> {
    await cache.withPartial(file, async (partial) => {
      const digest = await digestOf(file);
      for await (const piece of partial.read()) {
        this.#options.signal?.throwIfAborted();
        digest.update(piece);
      }
      let bytes = partial.size;
      const report = () => this.#options.onDownload?.({ file: file.name, bytes, totalBytes: file.size });
      report();
      for await (const piece of bytesOf(this.#client, commit, file, partial.size)) {
        await partial.write(piece);
        digest.update(piece);
        bytes += piece.length;
        report();
      }
      const hash = digest.hex();
      if (bytes === file.size && hash === file.oid) return await partial.finish();
      await partial.discard();
      // What an earlier download left may have been damaged: then all of it comes anew.
      if (partial.size === 0) checkHash(file, hash);
    });
  }
}

/** Attempts in a row that bring no byte. */
const ATTEMPTS = 4;
/** Milliseconds before the second one; twice that before each further one. */
const PAUSE = 100;

/**
 * The bytes of a file from a position on, to its end, over as many connections as it takes.
 *
 * @throws {Unreachable} when no more bytes come
 */
async function* bytesOf(
  client: HubClient,
  commit: string,
  file: HubFile,
  from: number,
): AsyncGenerator<Uint8Array<ArrayBuffer>> {
  for (let at = from, failures = 0; at < file.size;) {
    try {
      for await (const piece of client.read(commit, file, at)) {
        if (piece.length === 0) continue;
        at += piece.length;
        failures = 0;
        if (at > file.size) {
          rangeError(OPERATION, `${file.name} must have ${file.size} bytes`, at, "at least");
        }
        yield piece;
      }
      if (at < file.size) throw new Unreachable(`the connection ended after ${at} of ${file.size} bytes`);
    } catch (error) {
      if (!(error instanceof Unreachable) || ++failures === ATTEMPTS) throw error;
      await new Promise((resolve) => setTimeout(resolve, PAUSE * 2 ** (failures - 1)));
    }
  }
}

function checkHash({ name, algorithm, oid }: HubFile, hash: string): void {
  if (hash === oid) return;
  const kind = algorithm === "sha256" ? "SHA-256" : "git's SHA-1";
  rangeError(OPERATION, `${name} must have the bytes that the hub's listing says, ${kind} ${oid}`, hash);
}

/** A file without a cache, as it comes. Its hash is checked when it was read from beginning to end. */
function streamed(
  client: HubClient,
  commit: string,
  file: HubFile,
  { signal, onDownload }: { signal?: AbortSignal; onDownload?: (progress: DownloadProgress) => void },
): ByteReader {
  let pieces: AsyncGenerator<Uint8Array<ArrayBuffer>> | undefined;
  let rest = new Uint8Array(0), at = 0, digest: Digest | undefined;
  const goTo = async (position: number) => {
    await pieces?.return(undefined);
    pieces = bytesOf(client, commit, file, position);
    digest = position === 0 ? await digestOf(file) : undefined;
    rest = new Uint8Array(0);
    at = position;
  };
  const reader = {
    size: file.size,
    read: (target: Uint8Array<ArrayBuffer>) => reader.readAt(at, target),
    async readAt(position: number, target: Uint8Array<ArrayBuffer>): Promise<number> {
      if (pieces === undefined || position !== at) await goTo(position);
      let filled = 0;
      while (filled < target.length) {
        signal?.throwIfAborted();
        if (rest.length === 0) {
          const { done, value } = await pieces!.next();
          if (done) break;
          digest?.update(rest = value);
          const bytes = at + filled + rest.length;
          onDownload?.({ file: file.name, bytes, totalBytes: file.size });
          if (bytes === file.size && digest !== undefined) checkHash(file, digest.hex());
        }
        const taken = rest.subarray(0, target.length - filled);
        target.set(taken, filled);
        filled += taken.length;
        rest = rest.subarray(taken.length);
      }
      at += filled;
      return filled;
    },
    async close() {
      await pieces?.return(undefined);
    },
  };
  return reader;
}
