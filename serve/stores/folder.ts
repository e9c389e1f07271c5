/**
 * Sessions in a folder. A value is written to a file of its own name and renamed into its place under a lock of the
 * operating system, which ends with the process that holds it. So a process may be killed at any moment. The folder may
 * lie on a network file system that passes locks on, as NFS does. Files are not forced to the disk: a power cut can take
 * the last turns.
 *
 * @module
 */
import type { SessionStore } from "./store.ts";

/** What is used of Deno, whose types other hosts lack. */
interface Files {
  mkdir(path: string, options: { recursive: true }): Promise<void>;
  open(
    path: string,
    options: { create?: boolean; write: true },
  ): Promise<Disposable & { lock(exclusive: true): Promise<void> }>;
  readFile(path: string): Promise<Uint8Array<ArrayBuffer>>;
  writeFile(path: string, bytes: Uint8Array): Promise<void>;
  rename(from: string, to: string): Promise<void>;
  remove(path: string): Promise<void>;
  readDir(path: string): AsyncIterable<{ name: string; isDirectory: boolean }>;
  stat(path: string): Promise<{ mtime: Date | null }>;
  readonly errors: { readonly NotFound: new () => Error };
}

/** Number of locks that all keys share. */
const LOCKS = 64;
/** Milliseconds after which a file that was not renamed is one of a process that was killed. */
const BROKEN_OFF = 3600_000;

/**
 * Opens a folder, which is made if it is absent.
 *
 * @throws {Error} when it cannot be written to, or the host is not Deno
 */
export async function folderStore(folder: string | URL): Promise<SessionStore> {
  const { Deno: files } = globalThis as { Deno?: Files };
  if (files === undefined) throw new Error("Sessions in a folder need Deno, for its locks of files");
  const base = typeof folder === "string" ? folder : pathOf(folder);
  const values = `${base}/values`, locks = `${base}/locks`, parts = `${base}/parts`;
  for (const path of [values, locks, parts]) await files.mkdir(path, { recursive: true });
  for (let n = 0; n < LOCKS; n++) {
    (await files.open(`${locks}/${n}`, { create: true, write: true }))[Symbol.dispose]();
  }
  await clear(files, parts);

  const place = (key: string) => `${values}/${key.replaceAll(":", "/")}`;
  /** Keeps others, of this process and of all others, from writing the same key. */
  const locked = async <T>(key: string, work: () => Promise<T>): Promise<T> => {
    using lock = await files.open(`${locks}/${lockOf(key)}`, { write: true });
    await lock.lock(true);
    return await work();
  };
  const bytesAt = (key: string) => orAbsent(files, files.readFile(place(key)));
  const put = async (key: string, value: Uint8Array) => {
    const part = `${parts}/${crypto.randomUUID()}`, path = place(key);
    try {
      await files.writeFile(part, value);
      await files.mkdir(path.slice(0, path.lastIndexOf("/")), { recursive: true });
      await files.rename(part, path);
    } catch (error) {
      await orAbsent(files, files.remove(part));
      throw error;
    }
  };
  const remove = async (key: string) => {
    const path = place(key);
    await orAbsent(files, files.remove(path));
    // The folder of a session goes with its last file.
    await files.remove(path.slice(0, path.lastIndexOf("/"))).catch(() => {});
  };
  return {
    valueBytes: 2 ** 26,
    async read(key) {
      const value = await bytesAt(key);
      return value && { value, version: await versionOf(value) };
    },
    write: (key, value, expectedVersion) =>
      locked(key, async () => {
        const found = await bytesAt(key);
        if ((found && await versionOf(found)) !== expectedVersion) return false;
        if (value === undefined) await remove(key);
        else await put(key, value);
        return true;
      }),
    remove: (key) => locked(key, () => remove(key)),
    async list(prefix) {
      const keys: string[] = [];
      const walk = async (key: string) => {
        try {
          for await (const { name, isDirectory } of files.readDir(place(key))) {
            if (isDirectory) await walk(`${key}:${name}`);
            else keys.push(`${key}:${name}`);
          }
        } catch (error) {
          if (!(error instanceof files.errors.NotFound)) throw error;
        }
      };
      await walk(prefix);
      return keys;
    },
    close: () => Promise.resolve(),
  };
}

/** Not by `node:url`, which bundles for other hosts must not import. */
function pathOf({ pathname }: URL): string {
  return decodeURIComponent(pathname).replace(/^\/(?=[A-Za-z]:)/, ""); // a drive of Windows
}

/** Values of one session share a lock, so that its folder is not removed while a file is put there. */
function lockOf(key: string): number {
  let hash = 0;
  for (const char of key.split(":").slice(0, 2).join(":")) hash = (31 * hash + char.codePointAt(0)!) % 65521;
  return hash % LOCKS;
}

/** Of the bytes: two equal values of one key are the same value. */
async function versionOf(value: Uint8Array<ArrayBuffer>): Promise<string> {
  return new Uint8Array(await crypto.subtle.digest("SHA-256", value)).join();
}

async function clear(files: Files, parts: string): Promise<void> {
  for await (const { name } of files.readDir(parts)) {
    const path = `${parts}/${name}`;
    const mtime = (await orAbsent(files, files.stat(path)))?.mtime;
    if (mtime && mtime.getTime() < Date.now() - BROKEN_OFF) await orAbsent(files, files.remove(path));
  }
}

async function orAbsent<T>(files: Files, work: Promise<T>): Promise<T | undefined> {
  try {
    return await work;
  } catch (error) {
    if (error instanceof files.errors.NotFound) return undefined;
    throw error;
  }
}
