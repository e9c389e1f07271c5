/**
 * What threads of this machine can do together at best: multiply on operands in L1, and read memory.
 *
 * @module
 */
import { RELAXED } from "../baselines/kernels.ts";

/** What a probe does, again and again, for so many milliseconds. */
interface Probing {
  /** Reads so many bytes each time; 0: multiplies with the register tile. */
  readonly bytes: number;
  readonly milliseconds: number;
}

/** The script of a probe. It runs as text, so it must not refer to anything outside itself. */
function probe(): void {
  const scope = globalThis as unknown as {
    onmessage: (event: MessageEvent<{ module: WebAssembly.Module }>) => void;
    postMessage(message: unknown): void;
  };
  scope.onmessage = ({ data: { module } }) => {
    const memory = new WebAssembly.Memory({ initial: 1, maximum: 65536 });
    const kernels = new WebAssembly.Instance(module, { env: { memory } }).exports as {
      readAll(source: number, bytes: number): number;
      microKernel(a: number, b: number, c: number, inner: number, repeats: number): void;
    };
    const inner = 256, repeats = 100, operands = 65536; // the first page holds the module's constants
    const reserve = (bytes: number) => {
      const pages = Math.ceil((operands + bytes - memory.buffer.byteLength) / 65536);
      if (pages > 0) memory.grow(pages);
    };
    let filled = 0;
    scope.onmessage = (event: MessageEvent) => {
      const { bytes, milliseconds } = event.data as Probing;
      reserve(Math.max(bytes, 65536));
      if (filled < bytes) { // a page that nobody wrote is the same zeros everywhere
        new Int32Array(memory.buffer, operands, bytes / 4).fill(1);
        filled = bytes;
      }
      const begin = performance.now();
      let times = 0;
      do {
        if (bytes > 0) kernels.readAll(operands, bytes);
        else kernels.microKernel(operands, operands + 8192, operands + 32768, inner, repeats);
        times++;
      } while (performance.now() < begin + milliseconds);
      const each = bytes > 0 ? bytes : 2 * 5 * 8 * inner * repeats;
      scope.postMessage(times * each / (performance.now() - begin) / 1e6);
    };
    scope.postMessage(0); // ready
  };
}

/** Workers that measure what they can do together. */
export class Probes implements Disposable {
  readonly #workers: readonly Worker[];

  private constructor(workers: readonly Worker[]) {
    this.#workers = workers;
  }

  /** Starts so many. */
  static async start(count: number): Promise<Probes> {
    const module = new WebAssembly.Module(Uint8Array.fromHex(RELAXED));
    const url = URL.createObjectURL(new Blob([`(${probe})()`], { type: "text/javascript" }));
    const workers = Array.from({ length: count }, () => new Worker(url, { type: "module" }));
    await Promise.all(workers.map((worker) => answer(worker, { module })));
    URL.revokeObjectURL(url);
    return new Probes(workers);
  }

  /** GFLOP/s of the first `count` in the register tile. */
  multiply(count: number, milliseconds: number): Promise<number> {
    return this.#sum(count, { bytes: 0, milliseconds });
  }

  /** GB/s of the first `count`, which read `bytes` in all, each its share. */
  async read(count: number, bytes: number, milliseconds: number): Promise<number> {
    const share = Math.ceil(bytes / count / 128) * 128;
    await this.#sum(count, { bytes: share, milliseconds: 1 });
    return await this.#sum(count, { bytes: share, milliseconds });
  }

  async #sum(count: number, probing: Probing): Promise<number> {
    const rates = await Promise.all(this.#workers.slice(0, count).map((worker) => answer(worker, probing)));
    return rates.reduce((total, rate) => total + rate, 0);
  }

  [Symbol.dispose](): void {
    for (const worker of this.#workers) worker.terminate();
  }
}

/** What a worker answers to a message. */
function answer(worker: Worker, message: unknown): Promise<number> {
  return new Promise((resolve, reject) => {
    worker.onmessage = ({ data }) => resolve(data);
    worker.onerror = (event) => {
      event.preventDefault();
      reject(new Error(event.message));
    };
    worker.postMessage(message);
  });
}
