/**
 * Snapshots: a session as bytes. Portable, versioned, checksummed, and bound to the model they came from.
 *
 * | bytes | content |
 * |---|---|
 * | 0–7 | `"LEVINTNL"` |
 * | 8–11 | version, u32, little-endian |
 * | 12–15 | CRC-32 of everything after |
 * | 16– | a safetensors file: tensors `layers.0`, `layers.1`, ...; metadata `position`, `fingerprint`, `recent` |
 *
 * @module
 */
import { rangeError, typeError } from "../core/errors.ts";
import { Checksum } from "./checksum.ts";
import { decodeSafetensors, encodeSafetensors, toFloat32 } from "./safetensors.ts";

const MAGIC = "LEVINTNL";
const VERSION = 1;
const PREFIX_BYTES = 16;
/** Eight ids of ten digits, and commas. */
const RECENT_CHARACTERS = 8 * 10 + 7;

/** What a snapshot holds. */
export interface Snapshot {
  /** Checksum of the model. */
  readonly fingerprint: string;
  /** Tokens read. */
  readonly position: number;
  /** See `Session.recent`. */
  readonly recent: readonly number[];
  /** State of each layer. */
  readonly states: readonly Float32Array[];
  /** Shape of each state. */
  readonly shapes: readonly (readonly number[])[];
}

/** Writes a snapshot. */
export function encodeSnapshot(snapshot: Snapshot): Uint8Array<ArrayBuffer> {
  const { fingerprint, position, recent, states, shapes } = snapshot;
  const body = encodeSafetensors(
    states.map((data, l) => ({ name: `layers.${l}`, shape: shapes[l], data })),
    // Of the same length whatever was read.
    {
      position: String(position).padStart(16),
      fingerprint,
      recent: recent.map((id) => String(id).padStart(10)).join().padStart(RECENT_CHARACTERS),
    },
  );
  const bytes = new Uint8Array(PREFIX_BYTES + body.length);
  new TextEncoder().encodeInto(MAGIC, bytes);
  const view = new DataView(bytes.buffer);
  view.setUint32(8, VERSION, true);
  view.setUint32(12, new Checksum().bytes(body).value(), true);
  bytes.set(body, PREFIX_BYTES);
  return bytes;
}

/**
 * Reads a snapshot of the model with this fingerprint, these shapes and this vocabulary.
 *
 * @throws {TypeError} when `bytes` is no `Uint8Array`
 * @throws {RangeError} when they are no snapshot, of another version, damaged, or of another model
 */
export function decodeSnapshot(
  bytes: Uint8Array,
  fingerprint: string,
  shapes: readonly (readonly number[])[],
  vocabSize: number,
): Snapshot {
  const operation = "TransNormerLLM.restore";
  if (!(bytes instanceof Uint8Array)) typeError(operation, "bytes must be a Uint8Array", bytes);
  const copy = Uint8Array.from(bytes); // the caller's may be shared, or change
  const magic = new TextDecoder().decode(copy.subarray(0, 8));
  if (copy.length < PREFIX_BYTES || magic !== MAGIC) {
    rangeError(operation, "bytes must be a snapshot of a session", magic);
  }
  const view = new DataView(copy.buffer);
  const version = view.getUint32(8, true), checksum = view.getUint32(12, true);
  if (version !== VERSION) rangeError(operation, `the snapshot's version must be ${VERSION}`, version);
  const body = copy.subarray(PREFIX_BYTES);
  const found = new Checksum().bytes(body).value();
  if (found !== checksum) {
    rangeError(operation, `the snapshot must be whole: its checksum is ${checksum}`, found);
  }
  const { tensors, metadata } = decodeSafetensors(body, "snapshot");
  if (metadata.fingerprint !== fingerprint) {
    rangeError(
      operation,
      `the snapshot must be of this model: its fingerprint is ${fingerprint}`,
      metadata.fingerprint,
    );
  }
  const position = Number(metadata.position);
  if (!Number.isSafeInteger(position) || position < 0) {
    rangeError(operation, "the snapshot's position must be an integer >= 0", metadata.position);
  }
  const recent = (metadata.recent ?? "").trim().split(",").filter((id) => id !== "").map(Number);
  if (recent.some((id) => !Number.isInteger(id) || id < 0 || id >= vocabSize)) {
    rangeError(operation, "the snapshot's recent tokens must be token ids", metadata.recent);
  }
  const states = shapes.map((shape, l) => {
    const tensor = tensors.get(`layers.${l}`);
    if (tensor === undefined || String(tensor.shape) !== String(shape)) {
      rangeError(operation, `the snapshot must hold layers.${l} of shape [${shape}]`, tensor?.shape);
    }
    return toFloat32(tensor.dtype, tensor.bytes, `layers.${l}`);
  });
  return { fingerprint, position, recent, states, shapes };
}
