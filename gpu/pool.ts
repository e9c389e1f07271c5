/// <reference types="@webgpu/types" />
/**
 * Buffers of the device. Those given back are kept for reuse, in sizes that lengths which vary a little share; those to
 * be freed live until the commands that use them are submitted.
 *
 * New buffers are slow: the system maps their memory, and the device sets it to zero. So a pool learns what comes again. A
 * buffer that was freed and is then asked for was *missed*, and as many bytes more are kept from then on, until
 * nobody has used them for a while. A training step frees 10 GB once and never again; a single long prompt frees them.
 * All together they never hold more than 5/4 of what was most in use at a time, nor 2 GiB above it while that is no more
 * than twice as much, nor 256 MiB more than is in use. Sizes do not serve for one another: a pass of a small model over
 * 16,384 tokens needs buffers of twice what it uses at a time, and at 5/4 it made 2 GiB of them anew, every time.
 *
 * @module
 */
import type { Faults } from "./faults.ts";
import { roundUp } from "./store.ts";

/** A buffer of the device. */
export interface Block {
  readonly id: number;
  readonly buffer: GPUBuffer;
  readonly bytes: number;
  readonly usage: number;
  /** Clock of its creation: a fault then may have left it without memory. */
  readonly createdAt: number;
  /** Clock of the last recorded use: at or after the batch's start, the commands that use it are not submitted. */
  usedAt: number;
  /** Whether the pool holds it: no store does. */
  isIdle: boolean;
}

/** Bytes that idle buffers may always hold, and that buffers to be freed may hold until a submit. */
export const IDLE_BYTES: number = 256 * 2 ** 20;

/** Bytes that buffers may hold above what was most in use, where that at most doubles them. */
const SPARE_BYTES = 2 ** 31;

/** Submits after which idle buffers that none of them used are no longer kept for having been missed. */
const REMEMBERED_BATCHES = 64;

/** GPUBufferUsage's and GPUMapMode's number: those globals do not exist where there is no WebGPU. */
export const MAP_READ = 0x1;

/** What a pool asks of its device. */
export interface PoolOwner {
  /** Bytes of live stores. */
  readonly bytesInUse: number;
  /** Submits what is recorded, and calls {@linkcode Pool.submitted}. */
  flush(): void;
  /** A buffer is about to be destroyed: what names it must go. */
  forgetBuffers(): void;
}

/** All buffers of a device. */
export class Pool {
  readonly #device: GPUDevice;
  readonly #faults: Faults;
  readonly #owner: PoolOwner;
  readonly #largest: number;
  readonly #blocks = new Set<Block>();
  /**
   * By usage and size, the oldest first, which are taken first: the same work then meets the same buffers, and finds the
   * bind groups that it had before.
   */
  readonly #idle = new Map<string, Block[]>();
  /** How many of each kind were freed and not asked for since. */
  readonly #freed = new Map<string, number>();
  #bytes = 0;
  #idleBytes = 0;
  #missedBytes = 0;
  #mostInUse = 0;
  #sweptAt = 0;
  #doomed: Block[] = [];
  #doomedBytes = 0;
  #ids = 0;

  /** @param device the device @param faults its clock @param owner who uses the pool */
  constructor(device: GPUDevice, faults: Faults, owner: PoolOwner) {
    this.#device = device;
    this.#faults = faults;
    this.#owner = owner;
    this.#largest = Math.floor(device.limits.maxBufferSize / 256) * 256;
  }

  /** Bytes of all buffers, also the idle ones. */
  get bytes(): number {
    return this.#bytes;
  }

  /** An idle buffer or a new one; `fresh`: none that unsubmitted commands use, since an upload would overtake them. */
  acquire(bytes: number, usage: number, fresh = false): Block {
    // Sizes in steps of an eighth: at most an eighth is wasted, and lengths that vary a little share buffers.
    const step = Math.max(256, 2 ** (Math.floor(Math.log2(Math.max(bytes, 1))) - 3));
    const size = Math.min(roundUp(Math.max(bytes, 4), step), this.#largest);
    const key = `${usage},${size}`, idle = this.#idle.get(key);
    const index = idle?.findIndex(({ usedAt }) => !fresh || usedAt < this.#faults.batchStart) ?? -1;
    if (idle !== undefined && index >= 0) {
      this.#idleBytes -= size;
      this.#mostInUse = Math.max(this.#mostInUse, this.#bytes - this.#idleBytes);
      const [block] = idle.splice(index, 1);
      block.isIdle = false;
      return block;
    }
    const freed = this.#freed.get(key) ?? 0;
    if (freed > 0) {
      this.#freed.set(key, freed - 1);
      this.#missedBytes += size;
    }
    // Staging buffers stay mapped while they are idle.
    const mappedAtCreation = (usage & MAP_READ) !== 0;
    const buffer = this.#device.createBuffer({ size, usage, mappedAtCreation });
    const createdAt = this.#faults.clock;
    const block = { id: this.#ids++, buffer, bytes: size, usage, createdAt, usedAt: 0, isIdle: false };
    this.#blocks.add(block);
    this.#bytes += size;
    this.#mostInUse = Math.max(this.#mostInUse, this.#bytes - this.#idleBytes);
    return block;
  }

  /** Takes this idle buffer out. */
  take(block: Block): void {
    const idle = this.#idle.get(`${block.usage},${block.bytes}`)!;
    idle.splice(idle.indexOf(block), 1);
    block.isIdle = false;
    this.#idleBytes -= block.bytes;
    this.#mostInUse = Math.max(this.#mostInUse, this.#bytes - this.#idleBytes);
  }

  /** Takes a buffer back, for reuse. */
  recycle(block: Block): void {
    if (!this.#blocks.has(block)) return; // the device ended meanwhile
    if (this.#faults.at(block.createdAt) !== undefined) return this.destroy(block);
    const key = `${block.usage},${block.bytes}`;
    const idle = this.#idle.get(key);
    if (idle === undefined) this.#idle.set(key, [block]);
    else idle.splice(idle.findLastIndex(({ id }) => id < block.id) + 1, 0, block);
    block.isIdle = true;
    this.#idleBytes += block.bytes;
    const spare = Math.max(this.#mostInUse / 4, Math.min(this.#mostInUse, SPARE_BYTES));
    const room = this.#mostInUse + spare - (this.#bytes - this.#idleBytes);
    this.#trim(Math.min(this.#keptAnyway + this.#missedBytes, Math.max(IDLE_BYTES, room)));
  }

  /** Bytes that idle buffers may hold, whether they were missed or not. */
  get #keptAnyway(): number {
    return Math.max(IDLE_BYTES, this.#owner.bytesInUse);
  }

  /** Frees all idle buffers, and forgets what was missed. */
  clear(): void {
    this.#trim(0);
    this.#forget();
  }

  /** Frees idle buffers until they hold no more than this; sizes that were idle first go first. */
  #trim(bytes: number): void {
    for (const [key, idle] of this.#idle) {
      while (this.#idleBytes > bytes && idle.length > 0) {
        this.#freed.set(key, (this.#freed.get(key) ?? 0) + 1);
        this.#free(idle.pop()!);
      }
      if (this.#idleBytes <= bytes) return;
      this.#idle.delete(key);
    }
  }

  /** Frees what was kept for having been missed and has not been used since the last sweep. */
  #sweep(): void {
    const { batchStart } = this.#faults;
    if (batchStart - this.#sweptAt < REMEMBERED_BATCHES) return;
    for (const idle of this.#idle.values()) {
      for (let last = idle.at(-1); last !== undefined && last.usedAt < this.#sweptAt; last = idle.at(-1)) {
        if (this.#missedBytes === 0 || this.#idleBytes <= this.#keptAnyway) break;
        this.#missedBytes = Math.max(0, this.#missedBytes - last.bytes);
        this.#free(idle.pop()!);
      }
    }
    this.#freed.clear();
    this.#sweptAt = batchStart;
  }

  /** Forgets what was missed. */
  #forget(): void {
    this.#freed.clear();
    this.#missedBytes = this.#mostInUse = 0;
  }

  /** Frees a buffer that was idle. */
  #free(block: Block): void {
    block.isIdle = false;
    this.#idleBytes -= block.bytes;
    this.destroy(block);
  }

  /** Frees a buffer, after the submit of the commands that use it. */
  destroy(block: Block): void {
    if (block.usedAt >= this.#faults.batchStart) {
      this.#doomed.push(block);
      this.#doomedBytes += block.bytes;
      if (this.#doomedBytes > IDLE_BYTES) this.#owner.flush();
      return;
    }
    this.#blocks.delete(block);
    this.#bytes -= block.bytes;
    this.#owner.forgetBuffers();
    block.buffer.destroy();
  }

  /** All recorded commands are submitted: buffers that waited for that are freed. */
  submitted(): void {
    const doomed = this.#doomed;
    this.#doomed = [];
    this.#doomedBytes = 0;
    for (const block of doomed) this.destroy(block);
    this.#sweep();
  }

  /** Frees all buffers. */
  dispose(): void {
    for (const block of this.#blocks) {
      block.isIdle = false;
      block.buffer.destroy();
    }
    this.#blocks.clear();
    this.#idle.clear();
    this.#bytes = this.#idleBytes = 0;
    this.#forget();
  }
}
