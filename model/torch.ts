/**
 * Weights as `torch.save` writes them since PyTorch 1.6: a zip archive of stored records, `<folder>/data.pkl` with the
 * names, and one record of bytes per storage. A tensor is a view of a storage: an offset, sizes and strides.
 *
 * Nothing of a file is run (`pickle.ts`). Only the pickle and one tensor at a time are in memory. Checksums of records are
 * not compared: PyTorch may omit them (`torch.serialization.set_crc32_options`), and reads without them too.
 *
 * @module
 */
import { ZipReader } from "@zip.js/zip.js/lib/zip-core-reader.js";
import { rangeError, show } from "../core/errors.ts";
import { elementCount } from "../core/shape.ts";
import { type Named, type Opaque, type Tuple, unpickle, type Value } from "./pickle.ts";
import { randomAccess, type RandomReader } from "./ranges.ts";
import type { ByteReader } from "./safetensors.ts";
import { PIECE_BYTES, type StoredTensor, type TensorPiece, type WeightFile } from "./stored.ts";

const OPERATION = "readTorch";

/** Bytes of the pickle and of the directory, tensors, and dimensions of each: PyTorch itself has at most 64. */
const LIST_BYTES = 2 ** 26, TENSORS = 2 ** 17, DIMENSIONS = 64;

/** Storage classes, as element type and bytes of an element. Those that weights cannot have are known to be passed over. */
const STORAGES: ReadonlyMap<string, readonly [dtype: string, bytes: number]> = new Map([
  ["torch.FloatStorage", ["F32", 4]],
  ["torch.BFloat16Storage", ["BF16", 2]],
  ["torch.HalfStorage", ["F16", 2]],
  ["torch.DoubleStorage", ["F64", 8]],
  ["torch.LongStorage", ["I64", 8]],
  ["torch.IntStorage", ["I32", 4]],
  ["torch.ShortStorage", ["I16", 2]],
  ["torch.CharStorage", ["I8", 1]],
  ["torch.ByteStorage", ["U8", 1]],
  ["torch.BoolStorage", ["BOOL", 1]],
]);

/** What a pickle says of a storage, not yet believed. */
interface StorageClaim extends Opaque {
  readonly opaque: "storage";
  readonly id: Value;
}

/** What a pickle says of a tensor: the arguments of `_rebuild_tensor_v2`, not yet believed. */
interface TensorClaim extends Opaque {
  readonly opaque: "tensor";
  readonly values: Tuple;
}

/** The names that a file of weights needs. */
const KNOWN: ReadonlyMap<string, Named> = new Map(
  [
    { name: "collections.OrderedDict", call: (values: Tuple) => orderedDict(values) },
    {
      name: "torch._utils._rebuild_tensor_v2",
      call: (values: Tuple): TensorClaim => ({ opaque: "tensor", values }),
    },
    { name: "torch._utils._rebuild_parameter", call: ([data]: Tuple) => data },
    ...Array.from(STORAGES.keys(), (name): Named => ({ name })),
  ].map((named) => [named.name, named]),
);

/** An empty one: what it holds is set later. */
function orderedDict(values: Tuple): Value {
  if (values.length > 0) {
    rangeError(OPERATION, "an OrderedDict must be made empty, then filled", values.length);
  }
  return new Map();
}

/** A record of the archive. */
interface ZipRecord {
  /** Where its local header lies. */
  readonly offset: number;
  /** Bytes of its content. */
  readonly size: number;
  /** Where its content begins, once its local header was read. */
  content?: number;
}

/** A tensor of a file: a view of a record. */
interface View extends StoredTensor {
  /** Bytes of an element. */
  readonly itemBytes: number;
  /** Distance of neighbours along each dimension, in elements. */
  readonly strides: readonly number[];
  /** First element in the storage. */
  readonly offset: number;
  /** Elements from the first to the last. */
  readonly span: number;
  readonly record: ZipRecord;
}

/**
 * Opens a file of weights.
 *
 * @param reader at the beginning of the file; it is taken over
 * @param file name for error messages
 * @throws {RangeError} when the file is no archive of PyTorch 1.6 or later or is damaged, its numbers are big-endian, its
 * pickle names what files of weights do not need, or a tensor does not lie within its storage
 */
export async function openTorch(reader: ByteReader, file: string): Promise<WeightFile> {
  const random = await randomAccess(reader, file);
  try {
    return await open(random, file);
  } catch (error) {
    await random.close();
    throw error;
  }
}

async function open(reader: RandomReader, file: string): Promise<WeightFile> {
  const records = await readDirectory(reader, file);
  const roots = [...records.keys()].filter((name) => /^[^/]+\/data\.pkl$/.test(name));
  if (roots.length !== 1) {
    rangeError(OPERATION, "the archive must hold one folder with data.pkl", roots, file);
  }
  const folder = roots[0].slice(0, -"data.pkl".length);
  const list = records.get(roots[0])!;
  if (list.size > LIST_BYTES) {
    rangeError(OPERATION, `data.pkl must have at most ${LIST_BYTES} bytes`, list.size, file);
  }
  const pickle = await readRecord(reader, list, file);
  await checkByteOrder(reader, records.get(`${folder}byteorder`), file);
  const persistent = (id: Value): StorageClaim => ({ opaque: "storage", id });
  const state = unpickle(pickle, { known: KNOWN, persistent }, file);
  if (!(state instanceof Map)) {
    rangeError(OPERATION, "the file must hold a dictionary of tensors", typeof state, file);
  }
  if (state.size > TENSORS) {
    rangeError(OPERATION, `the file must hold at most ${TENSORS} tensors`, state.size, file);
  }
  const views = Array.from(state, ([name, value]) => viewOf(name, value, folder, records, file));
  views.sort((a, b) => a.record.offset - b.record.offset || a.offset - b.offset);
  return {
    file,
    tensors: views,
    async *read(wanted) {
      const chosen = views.filter(wanted);
      // Memory that all of them share: one for each would wait for the collector.
      const piece = new Uint8Array(Math.min(PIECE_BYTES, reader.size));
      const whole = new Uint8Array(
        chosen.reduce((most, view) => isRowMajor(view) ? most : Math.max(most, view.byteLength), 0),
      );
      for (const view of chosen) yield* readView(reader, view, piece, whole, file);
    },
    close: () => reader.close(),
  };
}

// ---------------------------------------------------------------------------------------------------- the archive

/** How a file of PyTorch before 1.6 begins: a pickle of a magic number. */
const LEGACY = [0x80, 0x02, 0x8a, 0x0a, 0x6c, 0xfc, 0x9c, 0x46, 0xf9, 0x20, 0x6a, 0xa8, 0x50, 0x19];

/**
 * The end of a file that is read together: the directory of hundreds of records lies there, behind which zip.js looks for
 * comments of up to 64 KiB.
 */
const TAIL_BYTES = 2 ** 17;

/** The archive's records by name. */
async function readDirectory(reader: RandomReader, file: string): Promise<Map<string, ZipRecord>> {
  const beginning = await readExactly(reader, 0, Math.min(LEGACY.length, reader.size), file);
  if (LEGACY.every((byte, i) => beginning[i] === byte)) {
    rangeError(
      OPERATION,
      "the file must be of PyTorch 1.6 or later (load it there and save it again with torch.save)",
      "one of an earlier PyTorch",
      file,
    );
  }
  const tailAt = Math.max(0, reader.size - TAIL_BYTES);
  const tail = await readExactly(reader, tailAt, reader.size - tailAt, file);
  const source = {
    size: reader.size,
    // zip.js asks for what a damaged file promises; what lies outside is none.
    async readUint8Array(position: number, length: number) {
      const there = Math.max(0, Math.min(length, reader.size - position));
      if (there > LIST_BYTES) {
        rangeError(OPERATION, `the archive's directory must have at most ${LIST_BYTES} bytes`, there, file);
      }
      if (position < tailAt) return await readExactly(reader, position, there, file);
      return tail.slice(position - tailAt, position - tailAt + there);
    },
  };
  let entries;
  try {
    // Only part of zip.js's own class Reader, the part that reading a directory needs.
    entries = await new ZipReader(source as unknown as ConstructorParameters<typeof ZipReader>[0])
      .getEntries();
  } catch (error) {
    if (!isOfZip(error)) throw error;
    rangeError(
      OPERATION,
      "the file must be a whole zip archive, as torch.save writes it",
      error.message,
      file,
    );
  }
  const records = new Map<string, ZipRecord>();
  for (
    const { filename, offset, compressedSize, uncompressedSize, compressionMethod, encrypted } of entries
  ) {
    if (compressionMethod !== 0 || encrypted || compressedSize !== uncompressedSize) {
      rangeError(
        OPERATION,
        "records must be stored as they are, neither compressed nor encrypted",
        filename,
        file,
      );
    }
    if (records.has(filename)) rangeError(OPERATION, "a record must not come twice", filename, file);
    records.set(filename, { offset, size: uncompressedSize });
  }
  return records;
}

/** Whether an error is one of those that zip.js throws on what is no sound archive: they have no class. */
function isOfZip(error: unknown): error is Error {
  return error instanceof Error && (error.constructor === Error || error.constructor === RangeError) &&
    !error.message.startsWith("Cannot run ");
}

/** Where the content of a record begins: behind its local header, whose length only the header itself tells. */
async function contentOf(reader: RandomReader, record: ZipRecord, file: string): Promise<number> {
  if (record.content !== undefined) return record.content;
  const LENGTH = 30, { offset, size } = record;
  if (offset < 0 || offset + LENGTH > reader.size) refuseRecord(offset, file);
  const header = await readExactly(reader, offset, LENGTH, file), view = new DataView(header.buffer);
  if (view.getUint32(0, true) !== 0x04034b50) refuseRecord(offset, file);
  const content = offset + LENGTH + view.getUint16(26, true) + view.getUint16(28, true);
  if (content + size > reader.size) refuseRecord(offset, file);
  return record.content = content;
}

function refuseRecord(offset: number, file: string): never {
  rangeError(OPERATION, "records must lie within the archive", `one at byte ${offset}`, file);
}

async function readRecord(
  reader: RandomReader,
  record: ZipRecord,
  file: string,
): Promise<Uint8Array<ArrayBuffer>> {
  return await readExactly(reader, await contentOf(reader, record, file), record.size, file);
}

/** Bytes that the file has, as its length says. */
async function readExactly(
  reader: RandomReader,
  position: number,
  length: number,
  file: string,
): Promise<Uint8Array<ArrayBuffer>> {
  const bytes = new Uint8Array(length);
  await fill(reader, position, bytes, file);
  return bytes;
}

async function fill(
  reader: RandomReader,
  position: number,
  target: Uint8Array<ArrayBuffer>,
  file: string,
): Promise<void> {
  const filled = position < 0 ? 0 : await reader.readAt(position, target);
  if (filled < target.length) {
    rangeError(OPERATION, `the file must hold ${target.length} bytes from byte ${position}`, filled, file);
  }
}

/** PyTorch before 2.1 does not write the record; its files are little-endian, as all machines that it ran on. */
async function checkByteOrder(
  reader: RandomReader,
  record: ZipRecord | undefined,
  file: string,
): Promise<void> {
  if (record === undefined) return;
  const order = record.size > 16
    ? `${record.size} bytes`
    : new TextDecoder().decode(await readRecord(reader, record, file));
  if (order !== "little") rangeError(OPERATION, "the file's byte order must be little", order, file);
}

// ------------------------------------------------------------------------------------------------------- tensors

/** Checks what a pickle says of a tensor against the archive. */
function viewOf(
  name: Value,
  value: Value,
  folder: string,
  records: ReadonlyMap<string, ZipRecord>,
  file: string,
): View {
  if (typeof name !== "string") {
    rangeError(OPERATION, "the names of tensors must be strings", typeof name, file);
  }
  const where = `tensor ${show(name)} of ${file}`;
  const refuse = (expectation: string, current: Value): never =>
    rangeError(OPERATION, expectation, described(current), where);
  if (!isTensor(value)) return refuse("every value of the dictionary must be a tensor", typeof value);
  const [storage, offset, shape, strides] = value.values;
  if (!isStorage(storage) || !Array.isArray(storage.id) || storage.id.length < 5) {
    return refuse("a tensor must be a view of a storage", storage);
  }
  const [kind, type, key, _location, length, view] = storage.id as Tuple;
  const known = typeof type === "object" && "name" in type ? STORAGES.get(type.name) : undefined;
  if (
    kind !== "storage" || known === undefined || typeof key !== "string" || (view ?? undefined) !== undefined
  ) {
    return refuse("a tensor must be a view of a storage of a known class", storage.id);
  }
  const [dtype, itemBytes] = known;
  const record = records.get(`${folder}data/${key}`) ??
    refuse("the storage of the tensor must be in the archive", `no record data/${key}`);
  if (!isSize(length) || length * itemBytes !== record.size) {
    return refuse(
      `the storage must hold ${record.size} bytes, those of record data/${key}`,
      `${described(length)} ${dtype}`,
    );
  }
  if (!isSizes(shape)) return refuse(`the shape must be of at most ${DIMENSIONS} integers >= 0`, shape);
  if (!isSizes(strides) || strides.length !== shape.length) {
    return refuse("the strides must be integers >= 0, one for each dimension", strides);
  }
  if (!isSize(offset)) return refuse("the offset must be an integer >= 0", offset);
  const count = elementCount(shape);
  const span = count === 0 ? 0 : shape.reduce((sum, n, axis) => sum + (n - 1) * strides[axis], 1);
  if (!(offset + span <= length)) {
    return refuse(
      `the tensor must lie within its storage of ${length} elements`,
      `${span} from element ${offset}, shape [${shape}], strides [${strides}]`,
    );
  }
  // Elements that are there once and shown many times would take more memory than the file.
  if (!(count <= length)) {
    return refuse(`the tensor must have at most the ${length} elements of its storage`, count);
  }
  return {
    name,
    dtype,
    shape,
    byteLength: count * itemBytes,
    elements: `${key} ${offset} [${shape}] [${strides}]`,
    itemBytes,
    strides,
    offset,
    span,
    record,
  };
}

/**
 * A value for a message. What lies within lists stays out: a short pickle can make a list of lists, each there many times,
 * that would take forever to print.
 */
function described(value: Value): unknown {
  const isPlain = (item: Value) => typeof item !== "object";
  if (isPlain(value)) return value;
  return Array.isArray(value) ? value.slice(0, 9).map((item) => isPlain(item) ? item : "...") : "an object";
}

function isTensor(value: Value): value is TensorClaim {
  return typeof value === "object" && "opaque" in value && value.opaque === "tensor";
}

function isStorage(value: Value): value is StorageClaim {
  return typeof value === "object" && "opaque" in value && value.opaque === "storage";
}

function isSize(value: unknown): value is number {
  return Number.isSafeInteger(value) && (value as number) >= 0;
}

function isSizes(value: unknown): value is number[] {
  return Array.isArray(value) && value.length <= DIMENSIONS && value.every(isSize);
}

/** The elements of a view, row by row. `piece` holds what is read, `whole` a view that is stored in another order. */
async function* readView(
  reader: RandomReader,
  view: View,
  piece: Uint8Array<ArrayBuffer>,
  whole: Uint8Array<ArrayBuffer>,
  file: string,
): AsyncGenerator<TensorPiece> {
  const { itemBytes, byteLength } = view;
  const begin = await contentOf(reader, view.record, file) + view.offset * itemBytes;
  if (!isRowMajor(view)) {
    // All of it is put in order before any of it can go on.
    const bytes = whole.subarray(0, byteLength);
    await gather(reader, begin, dimensionsOf(view), itemBytes, piece, bytes, 0, file);
    yield { tensor: view, begin: 0, bytes };
    return;
  }
  for (let done = 0; done === 0 || done < byteLength; done += PIECE_BYTES) {
    const bytes = piece.subarray(0, byteLength - done);
    await fill(reader, begin + done, bytes, file);
    yield { tensor: view, begin: done, bytes };
  }
}

/** Whether elements that follow each other in the tensor do so in the storage. */
function isRowMajor({ shape, strides, byteLength }: View): boolean {
  if (byteLength === 0) return true;
  let stride = 1;
  for (let axis = shape.length - 1; axis >= 0; axis--) {
    if (shape[axis] > 1 && strides[axis] !== stride) return false;
    stride *= shape[axis];
  }
  return true;
}

/** One dimension of a view: its size, and the distance of neighbours in the storage and in the tensor. */
type Dimension = readonly [size: number, stride: number, step: number];

/** The dimensions with more than one element, the widest strides in the storage first. */
function dimensionsOf({ shape, strides }: View): Dimension[] {
  let step = 1;
  const dimensions = shape.map((size, axis) => [size, strides[axis], axis] as const).reverse()
    .map(([size, stride]): Dimension => {
      const dimension: Dimension = [size, stride, step];
      step *= size;
      return dimension;
    });
  return dimensions.filter(([size]) => size > 1).sort(([, a], [, b]) => b - a);
}

/**
 * Copies elements from where they lie in the file, `begin` being the first, to where they belong in the target. What the
 * innermost dimensions span is read in one piece; wider dimensions are cut.
 */
async function gather(
  reader: RandomReader,
  begin: number,
  dimensions: readonly Dimension[],
  itemBytes: number,
  piece: Uint8Array<ArrayBuffer>,
  target: Uint8Array<ArrayBuffer>,
  to: number,
  file: string,
): Promise<void> {
  const span = (dimensions: readonly Dimension[]) =>
    itemBytes * dimensions.reduce((sum, [size, stride]) => sum + (size - 1) * stride, 1);
  if (span(dimensions) <= PIECE_BYTES || dimensions.length === 0) {
    await fill(reader, begin, piece.subarray(0, span(dimensions)), file);
    const Items = { 1: Uint8Array, 2: Uint16Array, 4: Uint32Array, 8: BigUint64Array }[itemBytes]!;
    const itemsOf = ({ buffer, length }: Uint8Array<ArrayBuffer>) =>
      new Items(buffer, 0, Math.floor(length / itemBytes));
    // The piece is in cache, the target is not: its neighbours are written one after another.
    const byStep = dimensions.toSorted(([, , a], [, , b]) => b - a);
    scatter(itemsOf(piece), 0, byStep, itemsOf(target), to);
    return;
  }
  const [[size, stride, step], ...inner] = dimensions;
  const fit = 1 + Math.floor((PIECE_BYTES - span(inner)) / (itemBytes * stride));
  const most = Math.max(1, fit);
  for (let i = 0; i < size; i += most) {
    const part = Math.min(most, size - i);
    const rest: Dimension[] = part > 1 ? [[part, stride, step], ...inner] : inner;
    await gather(reader, begin + i * stride * itemBytes, rest, itemBytes, piece, target, to + i * step, file);
  }
}

/** Elements of one type. */
type Items = Uint8Array | Uint16Array | Uint32Array | BigUint64Array;

function scatter(
  source: Items,
  from: number,
  dimensions: readonly Dimension[],
  target: Items,
  to: number,
): void {
  if (dimensions.length === 0) {
    target[to] = source[from];
    return;
  }
  const [[size, stride, step], ...inner] = dimensions;
  if (inner.length === 0) {
    for (let i = 0; i < size; i++) target[to + i * step] = source[from + i * stride];
  } else for (let i = 0; i < size; i++) scatter(source, from + i * stride, inner, target, to + i * step);
}
