/**
 * Reading anywhere in a file, for formats whose directory stands at the end.
 *
 * @module
 */
import { builtin } from "../core/builtin.ts";
import { rangeError } from "../core/errors.ts";
import type { ByteReader } from "./safetensors.ts";

/** A file of known length that is read anywhere. */
export interface RandomReader {
  /** Length in bytes. */
  readonly size: number;
  /** Fills as much of the target as there is from a position on, and returns the number of bytes. */
  readAt(position: number, target: Uint8Array<ArrayBuffer>): Promise<number>;
  /** Ends reading. */
  close(): Promise<void>;
}

/**
 * The same file, read anywhere. Where its host gives bytes only in order, they first go to a temporary file, which is
 * gone when the reader is closed; or into a `Blob` where the host has no files, which browsers keep on disk.
 *
 * @param reader at the beginning of the file; it is taken over, also where this fails
 * @throws {RangeError} when there must be a temporary file and cannot be one
 */
export async function randomAccess(reader: ByteReader, file: string): Promise<RandomReader> {
  const { size, readAt } = reader;
  if (size !== undefined && readAt !== undefined) return { size, readAt, close: () => reader.close() };
  try {
    const fileSystem = builtin("node:fs/promises") as typeof import("node:fs/promises") | undefined;
    return await (fileSystem === undefined ? toBlob(reader) : toTemporaryFile(reader, file, fileSystem));
  } finally {
    await reader.close();
  }
}

/** The rest of a file in pieces, each of them valid until the next. */
async function* pieces(reader: ByteReader): AsyncGenerator<Uint8Array<ArrayBuffer>> {
  const piece = new Uint8Array(2 ** 20);
  for (let filled = piece.length; filled === piece.length;) {
    filled = await reader.read(piece);
    yield piece.subarray(0, filled);
  }
}

async function toTemporaryFile(
  reader: ByteReader,
  file: string,
  { mkdtemp, open, rm }: typeof import("node:fs/promises"),
): Promise<RandomReader> {
  const refuse = (error: unknown) =>
    rangeError(
      "TransNormerLLM.load",
      `the server must answer range requests for ${file}, or a temporary file must be possible`,
      (error as Error).message,
    );
  let folder: string;
  try {
    const { tmpdir } = builtin("node:os") as typeof import("node:os");
    folder = await mkdtemp(`${tmpdir()}/levin-`);
  } catch (error) {
    return refuse(error);
  }
  const remove = () => rm(folder, { recursive: true, force: true });
  try {
    const copy = await open(`${folder}/weights`, "w+");
    try {
      let size = 0;
      for await (const piece of pieces(reader)) {
        await copy.writeFile(piece);
        size += piece.length;
      }
      return {
        size,
        async readAt(position, target) {
          return (await copy.read(target, 0, target.length, position)).bytesRead;
        },
        async close() {
          await copy.close();
          await remove();
        },
      };
    } catch (error) {
      await copy.close();
      throw error;
    }
  } catch (error) {
    await remove();
    throw error;
  }
}

async function toBlob(reader: ByteReader): Promise<RandomReader> {
  const bytes = pieces(reader);
  const stream = new ReadableStream<Uint8Array<ArrayBuffer>>({
    async pull(controller) {
      const { done, value } = await bytes.next();
      if (done) controller.close();
      else controller.enqueue(value.slice());
    },
  }, { highWaterMark: 0 });
  const blob = await new Response(stream).blob();
  return {
    size: blob.size,
    async readAt(position, target) {
      const part = await blob.slice(position, position + target.length).arrayBuffer();
      target.set(new Uint8Array(part));
      return part.byteLength;
    },
    close: () => Promise.resolve(),
  };
}
