/// <reference types="@webgpu/types" />
/**
 * What went wrong on the device, and when. The device reports errors later than the call that causes them. So each
 * batch is wrapped in error scopes, and a fault marks all that was written from its batch to its discovery as lost:
 * reading it, or computing from it, throws instead of handing out zeros. A clock that ticks at every submit and every
 * fault orders the two.
 *
 * @module
 */
import { BackendError } from "../core/errors.ts";

/** One fault: what was written from `from` to `to` on the clock cannot be trusted. */
interface Fault {
  readonly from: number;
  readonly to: number;
  readonly error: BackendError;
}

/** The clock of a device, its faults and its end. */
export class Faults {
  /** Ticks at every submit and every fault. */
  clock = 1;
  /** Clock at the start of the batch that is being recorded. */
  batchStart = 1;
  /** Settles when the device is lost. */
  readonly ended: Promise<undefined>;
  readonly #device: GPUDevice;
  readonly #onFault: () => void;
  readonly #faults: Fault[] = [];
  readonly #checks = new Set<Promise<void>>();
  #end: BackendError | undefined;

  /** @param device the device @param onFault called at each fault */
  constructor(device: GPUDevice, onFault: () => void) {
    this.#device = device;
    this.#onFault = onFault;
    this.#openScopes();
    this.ended = device.lost.then((info) => {
      this.#end ??= new BackendError(
        "lost",
        `Cannot continue as the GPU device was lost: ${info.message || info.reason}. ` +
          "Create a new backend, and continue from a snapshot",
      );
      return undefined;
    });
    device.addEventListener("uncapturederror", (event) => {
      event.preventDefault();
      this.#add((event as GPUUncapturedErrorEvent).error, this.batchStart);
    });
  }

  /** Whether the device was lost or disposed. */
  get over(): boolean {
    return this.#end !== undefined;
  }

  /** Whether the device was disposed. */
  get disposed(): boolean {
    return this.#end?.reason === "disposed";
  }

  /** Starts the next batch: the one before was submitted. */
  nextBatch(): void {
    this.#closeScopes();
    this.batchStart = ++this.clock;
    this.#openScopes();
  }

  /** Waits until all faults of submitted batches are known, or the device has ended. */
  async known(): Promise<void> {
    await Promise.race([Promise.all(this.#checks), this.ended]);
  }

  /** The fault that spoilt what was made or written at this time. */
  at(time: number): BackendError | undefined {
    return this.#faults.find(({ from, to }) => from <= time && time <= to)?.error;
  }

  /** Throws if a fault spoilt what was written at this time. */
  checkSound(time: number): void {
    if (this.#faults.length === 0) return;
    const error = this.at(time);
    if (error !== undefined) throw error;
  }

  /** Throws if the device was lost or disposed. */
  checkAlive(): void {
    if (this.#end !== undefined) throw this.#end;
  }

  /** From now on the device is disposed. */
  end(): void {
    this.#end = new BackendError("disposed", "Cannot use the backend as it was disposed");
  }

  #openScopes(): void {
    this.#device.pushErrorScope("validation");
    this.#device.pushErrorScope("internal");
    this.#device.pushErrorScope("out-of-memory");
  }

  #closeScopes(): void {
    const from = this.batchStart;
    const scopes = [1, 2, 3].map(() => this.#device.popErrorScope());
    const check = Promise.all(scopes).then(
      (errors) => {
        const error = errors.find((error) => error !== null); // out of memory first: it causes the others
        if (error) this.#add(error, from);
      },
      () => this.ended, // scopes are refused where the device is lost
    ).finally(() => this.#checks.delete(check));
    this.#checks.add(check);
  }

  #add(error: GPUError, from: number): void {
    const kind = error.constructor.name === "GPUOutOfMemoryError" ? "out-of-memory" : "validation";
    const what = kind === "out-of-memory"
      ? "the GPU is out of memory: dispose tensors, or use shorter segments"
      : "the GPU refused a command";
    this.#faults.push({
      from,
      to: this.clock++,
      error: new BackendError(kind, `Cannot compute a tensor as ${what}: ${error.message}`, { cause: error }),
    });
    this.#onFault();
  }
}
