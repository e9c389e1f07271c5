/**
 * Linear memory of the WASM backend: an allocator outside the module, so that the kernels are pure functions of
 * offsets. Freed memory is reused, adjoining free blocks join, and the memory never shrinks (no WebAssembly memory can).
 *
 * @module
 */
import { BackendError } from "../core/errors.ts";

const PAGE = 65536;
const MAX_PAGES = 65536;
/** Blocks start on cache lines. */
const ALIGNMENT = 64;
/** Register tiles may read (never write) this far beyond the last row of a block. */
const SLACK = 64;

/** A free stretch of memory. */
interface Gap {
  offset: number;
  bytes: number;
}

/** Allocates blocks of a `WebAssembly.Memory` that only it grows. */
export class LinearMemory {
  /** What the module imports as `env.memory`. */
  readonly memory: WebAssembly.Memory;
  /** Bytes in live blocks. */
  bytesInUse = 0;
  /** Free stretches, by offset; no two adjoin. */
  #gaps: Gap[] = [];
  /** Sizes of live blocks. */
  #blocks = new Map<number, number>();

  /**
   * A memory, shared between threads or not. The first page belongs to the module, whose constants lie there, so that
   * offset 0 can mean "none".
   */
  constructor(shared = false) {
    this.memory = new WebAssembly.Memory({ initial: 1, maximum: MAX_PAGES, shared });
  }

  /** Takes a block of at least `bytes` bytes; its content is arbitrary. Throws `BackendError` "out-of-memory". */
  allocate(bytes: number): number {
    const size = Math.ceil((bytes + SLACK) / ALIGNMENT) * ALIGNMENT;
    let index = 0;
    while (index < this.#gaps.length && this.#gaps[index].bytes < size) index++;
    if (index === this.#gaps.length) {
      this.#grow(size);
      index = this.#gaps.length - 1;
    }
    const gap = this.#gaps[index], { offset } = gap;
    if (gap.bytes === size) this.#gaps.splice(index, 1);
    gap.offset += size;
    gap.bytes -= size;
    this.#blocks.set(offset, size);
    this.bytesInUse += size;
    return offset;
  }

  /** Gives a block back. */
  free(offset: number): void {
    const bytes = this.#blocks.get(offset);
    if (bytes === undefined) throw new Error(`offset ${offset} is no live block`);
    this.#blocks.delete(offset);
    this.bytesInUse -= bytes;
    let index = 0;
    while (index < this.#gaps.length && this.#gaps[index].offset < offset) index++;
    const before = this.#gaps[index - 1], after = this.#gaps[index];
    if (after?.offset === offset + bytes) {
      after.offset = offset;
      after.bytes += bytes;
      this.#join(index - 1);
    } else if (before !== undefined && before.offset + before.bytes === offset) before.bytes += bytes;
    else this.#gaps.splice(index, 0, { offset, bytes });
  }

  /** Bytes of a live block, 0 if no block is there. */
  sizeOf(offset: number): number {
    return this.#blocks.get(offset) ?? 0;
  }

  /** A view of `length` f32 at an offset. Never keep it: growing the memory detaches it. */
  floats(offset: number, length: number): Float32Array {
    return new Float32Array(this.memory.buffer, offset, length);
  }

  /** A view of `length` words of 16 bits at an offset. Never keep it either. */
  words(offset: number, length: number): Uint16Array {
    return new Uint16Array(this.memory.buffer, offset, length);
  }

  /** A view of `length` bytes at an offset. Never keep it either. */
  bytes(offset: number, length: number): Uint8Array {
    return new Uint8Array(this.memory.buffer, offset, length);
  }

  /** Joins a gap with the next one if they adjoin. */
  #join(index: number): void {
    const gap = this.#gaps[index], next = this.#gaps[index + 1];
    if (gap !== undefined && next !== undefined && gap.offset + gap.bytes === next.offset) {
      gap.bytes += next.bytes;
      this.#gaps.splice(index + 1, 1);
    }
  }

  /** Grows the memory so that its last gap holds `size` bytes. */
  #grow(size: number): void {
    const end = this.memory.buffer.byteLength;
    const last = this.#gaps.at(-1);
    const open = last !== undefined && last.offset + last.bytes === end ? last.bytes : 0;
    const pages = Math.ceil((size - open) / PAGE);
    try {
      if (end / PAGE + pages > MAX_PAGES) throw new RangeError("WebAssembly addresses 4 GiB at most");
      this.memory.grow(pages);
    } catch (cause) {
      throw new BackendError(
        "out-of-memory",
        `Cannot allocate ${size} bytes of WebAssembly memory, ${this.bytesInUse} of ${end} are in use: ` +
          `dispose tensors that are no longer needed, or process the sequence in shorter segments`,
        { cause },
      );
    }
    this.#gaps.push({ offset: end, bytes: pages * PAGE });
    this.#join(this.#gaps.length - 2);
  }
}

/** A block that is kept for whoever needs one next, and replaced by a larger one when it is too small. */
export class ReusedBlock {
  readonly #memory: LinearMemory;
  /** Where the block lies; 0: none yet. */
  #offset = 0;
  #bytes = 0;

  /** None yet, of a memory. */
  constructor(memory: LinearMemory) {
    this.#memory = memory;
  }

  /** Bytes that the block holds. */
  get held(): number {
    return this.#memory.sizeOf(this.#offset);
  }

  /** The offset of at least `bytes` bytes, valid until the next call; their content is arbitrary. */
  reserve(bytes: number): number {
    if (bytes > this.#bytes) {
      const offset = this.#offset;
      this.#offset = this.#bytes = 0;
      if (offset !== 0) this.#memory.free(offset);
      this.#offset = this.#memory.allocate(bytes);
      this.#bytes = bytes;
    }
    return this.#offset;
  }
}
