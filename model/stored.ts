/**
 * Weights in a file, of whatever format: what the file holds, and the bytes of its tensors, one after another.
 *
 * @module
 */

/**
 * Bytes that a file of a checkpoint may have that is read as a whole: a tokenizer of a quarter of a million tokens has
 * half of it, a list of all tensors of the largest models a hundredth.
 */
export const WHOLE_FILE_BYTES: number = 2 ** 26;

/**
 * Bytes of a tensor that are read, hashed, converted and uploaded at a time: they stay in a core's cache on their way, and
 * whole elements and 16 bytes of the hash fill it.
 */
export const PIECE_BYTES: number = 2 ** 20;

/** A tensor of a file. */
export interface StoredTensor {
  /** Name, unique in the file. */
  readonly name: string;
  /** Element type: `"F32"`, `"F16"`, `"BF16"`, `"I32"`, ... */
  readonly dtype: string;
  /** Dimensions, outermost first. */
  readonly shape: readonly number[];
  /** Bytes of its elements. */
  readonly byteLength: number;
  /** Where its elements lie, if others may lie there too: tensors that say the same here are the same elements. */
  readonly elements?: string;
}

/** Bytes of a tensor. */
export interface TensorPiece {
  /** The tensor. */
  readonly tensor: StoredTensor;
  /** Which byte of the tensor is the first. */
  readonly begin: number;
  /** Row by row, little-endian, aligned to 8 bytes; they are valid until the next piece. */
  readonly bytes: Uint8Array<ArrayBuffer>;
}

/** A file of weights whose directory was read and checked. */
export interface WeightFile {
  /** Name, for error messages. */
  readonly file: string;
  /** What it holds, in the order of {@linkcode WeightFile.read}. */
  readonly tensors: readonly StoredTensor[];
  /**
   * Reads tensors, once for each file, in pieces: a tensor's pieces come in order, before those of the next tensor. There
   * is at least one of each. None is longer than {@linkcode PIECE_BYTES} except where a tensor must be whole before any of
   * it is known to be there or in order.
   */
  read(wanted: (tensor: StoredTensor) => boolean): AsyncGenerator<TensorPiece>;
  /** Ends reading. */
  close(): Promise<void>;
}
