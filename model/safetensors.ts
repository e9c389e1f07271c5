/**
 * The safetensors format: 8 bytes of header length, a JSON header, the tensors' bytes without holes
 * (https://huggingface.co/docs/safetensors). A header comes from strangers: nothing in it is believed before it is
 * checked, and no more is allocated than the file proves to hold.
 *
 * @module
 */
import { rangeError, typeError } from "../core/errors.ts";
import { fromBfloat16s } from "../core/bfloat16.ts";
import { fromHalf } from "../core/half.ts";
import { elementCount } from "../core/shape.ts";
import { PIECE_BYTES, type StoredTensor, type TensorPiece, type WeightFile } from "./stored.ts";

/**
 * Bits per element of the format's element types. A file may hold tensors of others, which are not used: their offsets
 * are checked like all, their size cannot be.
 */
const ITEM_BITS: Readonly<Record<string, number>> = {
  C64: 64,
  F64: 64,
  F32: 32,
  F16: 16,
  BF16: 16,
  F8_E4M3: 8,
  F8_E5M2: 8,
  F8_E8M0: 8,
  F6_E2M3: 6,
  F6_E3M2: 6,
  F4: 4,
  I64: 64,
  I32: 32,
  I16: 16,
  I8: 8,
  U64: 64,
  U32: 32,
  U16: 16,
  U8: 8,
  BOOL: 8,
};

/**
 * The longest header that is read, and the most tensors that it may describe. The reference implementation takes 100 MB;
 * the largest models have some hundred thousand tensors in all of their files, with 100 bytes for each.
 */
const MAX_HEADER_BYTES = 2 ** 24, MAX_TENSORS = 2 ** 17;

/** One tensor as the header describes it. */
export interface TensorEntry extends StoredTensor {
  /** First byte, counted from the end of the header. */
  readonly begin: number;
  /** Byte after the last. */
  readonly end: number;
}

/** A checked header. */
export interface SafetensorsHeader {
  /** The tensors, in the order of their bytes. */
  readonly entries: readonly TensorEntry[];
  /** The free-form strings of `__metadata__`. */
  readonly metadata: Readonly<Record<string, string>>;
  /** Bytes of all tensors together: what follows the header. */
  readonly dataBytes: number;
}

/**
 * Bytes that come in order: a file or a response. `size` is the length of the whole where it is known, `position`
 * the number of bytes read.
 */
export interface ByteReader {
  /** Length of the whole in bytes, if it is known beforehand. */
  readonly size: number | undefined;
  /** Fills as much of the target as there is, and returns the number of bytes: less than asked only at the end. */
  read(target: Uint8Array<ArrayBuffer>): Promise<number>;
  /**
   * Fills as much of the target as there is from a position on, and returns the number of bytes; it is called for one
   * target at a time, and no longer together with `read`. Absent where bytes come in order only.
   */
  readAt?(position: number, target: Uint8Array<ArrayBuffer>): Promise<number>;
  /** Ends reading; the rest is not fetched. */
  close(): Promise<void>;
}

/**
 * Checks a header.
 *
 * @param json the bytes between the length and the tensors
 * @param dataBytes number of bytes after the header, if known
 * @param file name for error messages
 * @throws {RangeError} when the header is no JSON object, describes a tensor outside the file, overlaps, leaves holes,
 * or a tensor's shape and element type do not give its number of bytes
 */
export function parseSafetensorsHeader(
  json: Uint8Array,
  dataBytes: number | undefined,
  file: string,
): SafetensorsHeader {
  const operation = "readSafetensors";
  const braces = json.reduce((count, byte) => count + Number(byte === 0x7b), 0);
  if (braces > MAX_TENSORS + 2) {
    rangeError(operation, `the header must describe at most ${MAX_TENSORS} tensors`, braces, file);
  }
  let header: unknown;
  try {
    header = JSON.parse(new TextDecoder("utf-8", { fatal: true }).decode(json));
  } catch (error) {
    rangeError(operation, "the header must be JSON in UTF-8", (error as Error).message, file);
  }
  if (!isRecord(header)) rangeError(operation, "the header must be a JSON object", header, file);

  const entries: TensorEntry[] = [];
  let metadata: Record<string, string> = {};
  for (const [name, value] of Object.entries(header)) {
    if (name === "__metadata__") {
      if (value === null) continue; // as in the reference implementation
      if (!isRecord(value) || Object.values(value).some((text) => typeof text !== "string")) {
        rangeError(operation, "__metadata__ must map names to strings", value, file);
      }
      metadata = value as Record<string, string>;
    } else {
      entries.push(checkEntry(operation, name, value, file));
    }
  }
  entries.sort((a, b) => a.begin - b.begin || a.end - b.end);
  let end = 0;
  for (const entry of entries) {
    if (entry.begin !== end) {
      rangeError(
        operation,
        `data_offsets must leave no hole and not overlap: the next tensor begins at ${end}`,
        entry.begin,
        `tensor ${JSON.stringify(entry.name)} of ${file}`,
      );
    }
    end = entry.end;
  }
  if (dataBytes !== undefined && dataBytes !== end) {
    rangeError(operation, `the file must hold ${end} bytes of tensors, as its header says`, dataBytes, file);
  }
  return { entries, metadata, dataBytes: end };
}

function checkEntry(operation: string, name: string, value: unknown, file: string): TensorEntry {
  const where = `tensor ${JSON.stringify(name)} of ${file}`;
  if (!isRecord(value)) rangeError(operation, "every tensor must be described by an object", value, where);
  const { dtype, shape, data_offsets: offsets } = value;
  if (typeof dtype !== "string") rangeError(operation, "dtype must be a string", dtype, where);
  if (!isSizes(shape)) rangeError(operation, "shape must be an array of integers >= 0", shape, where);
  if (!isSizes(offsets) || offsets.length !== 2 || offsets[0] > offsets[1]) {
    rangeError(operation, "data_offsets must be two integers >= 0, non-decreasing", offsets, where);
  }
  const bytes = Object.hasOwn(ITEM_BITS, dtype) ? ITEM_BITS[dtype] * elementCount(shape) / 8 : undefined;
  if (bytes !== undefined && bytes !== offsets[1] - offsets[0]) {
    rangeError(
      operation,
      `data_offsets must span ${bytes} bytes, what shape and dtype need`,
      offsets[1] - offsets[0],
      `${where}, ${dtype} [${shape}]`,
    );
  }
  return { name, dtype, shape, byteLength: offsets[1] - offsets[0], begin: offsets[0], end: offsets[1] };
}

function isRecord(value: unknown): value is Record<string, unknown> {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

function isSizes(value: unknown): value is number[] {
  return Array.isArray(value) && value.every((n) => Number.isSafeInteger(n) && n >= 0);
}

/**
 * Opens a file: reads its header.
 *
 * @param reader at the beginning of the file; it is taken over
 * @param file name for error messages
 * @throws {RangeError} when the file is truncated or its header is not sound; see {@linkcode parseSafetensorsHeader}
 */
export async function openSafetensors(reader: ByteReader, file: string): Promise<WeightFile> {
  try {
    const length = headerLength(await readExactly(reader, 8, file), reader.size, file);
    const dataBytes = reader.size === undefined ? undefined : reader.size - 8 - length;
    const header = parseSafetensorsHeader(await readExactly(reader, length, file), dataBytes, file);
    return {
      file,
      tensors: header.entries,
      read: (wanted) => readTensors(reader, header, wanted, file),
      close: () => reader.close(),
    };
  } catch (error) {
    await reader.close();
    throw error;
  }
}

async function* readTensors(
  reader: ByteReader,
  { entries, dataBytes }: SafetensorsHeader,
  wanted: (tensor: StoredTensor) => boolean,
  file: string,
): AsyncGenerator<TensorPiece> {
  const buffer = new Uint8Array(Math.min(PIECE_BYTES, dataBytes));
  for (const tensor of entries) {
    const isWanted = wanted(tensor);
    if (isWanted && reader.size === undefined) {
      // Nobody knows whether the file has what its header promises: nothing is made of it before all of it is here.
      yield { tensor, begin: 0, bytes: await readExactly(reader, tensor.byteLength, file) };
      continue;
    }
    for (let begin = 0; begin === 0 || begin < tensor.byteLength; begin += PIECE_BYTES) {
      const bytes = buffer.subarray(0, tensor.byteLength - begin);
      requireBytes(await reader.read(bytes), bytes.length, file);
      if (isWanted) yield { tensor, begin, bytes };
    }
  }
  if (await reader.read(new Uint8Array(1)) !== 0) {
    rangeError("readSafetensors", `the file must end after ${dataBytes} bytes of tensors`, "more", file);
  }
}

/** Memory follows the bytes that came: a length that promises more than the file has costs one piece at most. */
async function readExactly(
  reader: ByteReader,
  length: number,
  file: string,
): Promise<Uint8Array<ArrayBuffer>> {
  const piece = 2 ** 28;
  let bytes = new Uint8Array(Math.min(length, piece));
  let filled = await reader.read(bytes);
  while (filled === bytes.length && filled < length) {
    const longer = new Uint8Array(Math.min(length, 2 * bytes.length));
    longer.set(bytes);
    bytes = longer;
    filled += await reader.read(bytes.subarray(filled));
  }
  requireBytes(filled, length, file);
  return bytes;
}

function requireBytes(filled: number, length: number, file: string): void {
  if (filled < length) {
    rangeError("readSafetensors", `the file must not end before ${length} more bytes`, filled, file);
  }
}

function headerLength(prefix: Uint8Array<ArrayBuffer>, size: number | undefined, file: string): number {
  const length = new DataView(prefix.buffer, prefix.byteOffset).getBigUint64(0, true);
  const limit = size === undefined ? MAX_HEADER_BYTES : Math.min(MAX_HEADER_BYTES, size - 8);
  if (length > BigInt(limit)) {
    rangeError("readSafetensors", `the header must be at most ${limit} bytes long`, length, file);
  }
  return Number(length);
}

/**
 * Reads a file that is in memory; the tensors' bytes are views of it.
 *
 * @throws {RangeError} as {@linkcode parseSafetensorsHeader}
 */
export function decodeSafetensors(
  file: Uint8Array<ArrayBuffer>,
  name = "safetensors",
): {
  tensors: Map<string, TensorEntry & { bytes: Uint8Array<ArrayBuffer> }>;
  metadata: Readonly<Record<string, string>>;
} {
  if (file.length < 8) {
    rangeError("readSafetensors", "the file must hold at least 8 bytes", file.length, name);
  }
  const length = headerLength(file.subarray(0, 8), file.length, name);
  const data = file.subarray(8 + length);
  const { entries, metadata } = parseSafetensorsHeader(file.subarray(8, 8 + length), data.length, name);
  const tensors = new Map(
    entries.map((entry) => [entry.name, { ...entry, bytes: data.subarray(entry.begin, entry.end) }]),
  );
  return { tensors, metadata };
}

/**
 * The beginning of a file of tensors: length and header, filled up so that the tensors begin aligned.
 *
 * @param tensors in the order in which their bytes follow
 * @param metadata strings for `__metadata__`
 */
export function encodeSafetensorsHeader(
  tensors: readonly { name: string; dtype: string; shape: readonly number[] }[],
  metadata: Readonly<Record<string, string>> = {},
): Uint8Array<ArrayBuffer> {
  let end = 0;
  const entries = tensors.map(({ name, dtype, shape }) => {
    const begin = end;
    end += ITEM_BITS[dtype] / 8 * elementCount(shape);
    return [name, { dtype, shape, data_offsets: [begin, end] }];
  });
  const json = new TextEncoder().encode(
    JSON.stringify(Object.fromEntries([["__metadata__", metadata], ...entries])),
  );
  const length = Math.ceil(json.length / 8) * 8;
  const bytes = new Uint8Array(8 + length).fill(0x20, 8);
  new DataView(bytes.buffer).setBigUint64(0, BigInt(length), true);
  bytes.set(json, 8);
  return bytes;
}

/**
 * Writes a file of tensors: F32, or F16 from the bits that `toHalf` gives.
 *
 * @param tensors in the order in which they are written
 * @param metadata strings for `__metadata__`
 */
export function encodeSafetensors(
  tensors: readonly { name: string; shape: readonly number[]; data: Float32Array | Uint16Array }[],
  metadata: Readonly<Record<string, string>> = {},
): Uint8Array<ArrayBuffer> {
  const header = encodeSafetensorsHeader(
    tensors.map(({ name, shape, data }) => ({
      name,
      shape,
      dtype: data instanceof Uint16Array ? "F16" : "F32",
    })),
    metadata,
  );
  const file = new Uint8Array(tensors.reduce((sum, { data }) => sum + data.byteLength, header.length));
  file.set(header);
  let offset = header.length;
  for (const { data } of tensors) {
    file.set(new Uint8Array(data.buffer, data.byteOffset, data.byteLength), offset);
    offset += data.byteLength;
  }
  return file;
}

/**
 * A tensor's elements as f32. `"F32"` bytes that are aligned are not copied.
 *
 * @param where what to call the tensor in messages
 * @param memory where other elements go; as many, or more
 * @throws {TypeError} when the element type is not F32, F16 or BF16
 */
export function toFloat32(
  dtype: string,
  bytes: Uint8Array<ArrayBuffer>,
  where: string,
  memory?: Float32Array<ArrayBuffer>,
): Float32Array<ArrayBuffer> {
  const aligned = bytes.byteOffset % 4 === 0 ? bytes : bytes.slice();
  if (dtype === "F32") return new Float32Array(aligned.buffer, aligned.byteOffset, aligned.length / 4);
  if (dtype !== "F16" && dtype !== "BF16") {
    typeError("readSafetensors", "dtype of weights must be F32, F16 or BF16", dtype, where);
  }
  const halves = new Uint16Array(aligned.buffer, aligned.byteOffset, aligned.length / 2);
  const values = memory?.subarray(0, halves.length) ?? new Float32Array(halves.length);
  if (dtype === "F16") fromHalf(halves, values);
  else fromBfloat16s(halves, values);
  return values;
}
