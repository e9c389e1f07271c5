/**
 * Finding and compiling the embedded kernels.
 *
 * @module
 */
import { BackendError } from "../core/errors.ts";
import { BASELINE, RELAXED } from "./kernels.ts";

/** The functions of `assembly/index.ts`. Pointers are byte offsets; 0 stands for "none". */
export interface KernelExports {
  /** 1 in the relaxed build. */
  readonly RELAXED: WebAssembly.Global;
  /** See `assembly/layers.ts`. */
  scaledCopy(source: number, target: number, count: number, scale: number): void;
  /** See `assembly/layers.ts`. */
  multiply(x: number, y: number, output: number, count: number): void;
  /** See `assembly/layers.ts`. */
  norm(
    x: number,
    weight: number,
    bias: number,
    gate: number,
    output: number,
    rows: number,
    width: number,
    eps: number,
  ): void;
  /** See `assembly/layers.ts`. */
  splitHeads(
    x: number,
    q: number,
    k: number,
    v: number,
    u: number,
    rows: number,
    hidden: number,
    headDim: number,
    activation: number,
  ): void;
  /** See `assembly/layers.ts`. */
  lrpe(
    x: number,
    theta: number,
    output: number,
    seqLen: number,
    heads: number,
    headDim: number,
    position: number,
  ): void;
  /** See `assembly/lightning.ts`. */
  lightningScratch(headDim: number, valueDim: number): number;
  /** See `assembly/lightning.ts`. */
  lightning(
    q: number,
    qStride: number,
    k: number,
    kStride: number,
    v: number,
    vStride: number,
    o: number,
    oStride: number,
    length: number,
    headDim: number,
    valueDim: number,
    decay: number,
    scale: number,
    initialState: number,
    finalState: number,
    stateStride: number,
    accumulate: number,
    scratch: number,
  ): void;
  /** See `assembly/lightningBackward.ts`. */
  lightningBackwardScratch(headDim: number, valueDim: number): number;
  /** See `assembly/lightningBackward.ts`. */
  lightningBackward(
    q: number,
    qStride: number,
    k: number,
    kStride: number,
    v: number,
    vStride: number,
    dO: number,
    dOStride: number,
    dq: number,
    dqStride: number,
    dk: number,
    dkStride: number,
    dv: number,
    dvStride: number,
    addToQ: number,
    addToK: number,
    length: number,
    headDim: number,
    valueDim: number,
    decay: number,
    scale: number,
    initialState: number,
    dState: number,
    dInitialState: number,
    scratch: number,
  ): void;
  /** See `assembly/lightning.ts`. */
  lightningStep(
    q: number,
    k: number,
    v: number,
    o: number,
    state: number,
    headDim: number,
    valueDim: number,
    lambda: number,
    scale: number,
  ): void;
  /** See `assembly/linear.ts`. */
  linearScratch(rows: number, depth: number, outs: number): number;
  /** See `assembly/linear.ts`. */
  matmulScratch(rows: number, depth: number, outs: number): number;
  /** See `assembly/linear.ts`. */
  linearInput(
    dy: number,
    weight: number,
    residual: number,
    dx: number,
    rows: number,
    outs: number,
    depth: number,
    scratch: number,
  ): void;
  /** See `assembly/linear.ts`. */
  linearWeight(
    dy: number,
    x: number,
    dWeight: number,
    rows: number,
    outs: number,
    depth: number,
    scratch: number,
  ): void;
  /** See `assembly/linear.ts`. */
  linear(
    x: number,
    weight: number,
    bias: number,
    residual: number,
    y: number,
    rows: number,
    depth: number,
    outs: number,
    scratch: number,
  ): void;
  /** See `assembly/quantized.ts`. */
  quantizedScratch(rows: number, depth: number, bits: number, group: number): number;
  /** See `assembly/quantized.ts`. */
  quantizeRows(
    x: number,
    rows: number,
    depth: number,
    bits: number,
    group: number,
    target: number,
  ): void;
  /** See `assembly/quantized.ts`. */
  linearQuantized(
    x: number,
    weight: number,
    bias: number,
    residual: number,
    y: number,
    rows: number,
    depth: number,
    outs: number,
    stride: number,
    bits: number,
    group: number,
  ): void;
  /** See `assembly/gradients.ts`. */
  scaledAdd(source: number, target: number, count: number, scale: number): void;
  /** See `assembly/gradients.ts`. */
  linearBias(dy: number, dBias: number, rows: number, outs: number): void;
  /** See `assembly/gradients.ts`. */
  normBackward(
    x: number,
    weight: number,
    bias: number,
    gate: number,
    dy: number,
    residual: number,
    dx: number,
    dWeight: number,
    dBias: number,
    dGate: number,
    rows: number,
    width: number,
    eps: number,
  ): void;
  /** See `assembly/gradients.ts`. */
  splitHeadsBackward(
    x: number,
    dq: number,
    dk: number,
    dv: number,
    du: number,
    dx: number,
    rows: number,
    hidden: number,
    headDim: number,
    activation: number,
  ): void;
  /** See `assembly/gradients.ts`. */
  lrpeBackward(
    x: number,
    theta: number,
    dy: number,
    dx: number,
    dTheta: number,
    seqLen: number,
    heads: number,
    headDim: number,
    position: number,
  ): void;
  /** See `assembly/gradients.ts`. */
  crossEntropy(
    logits: number,
    vocab: number,
    label: number,
    scale: number,
    loss: number,
    dLogits: number,
  ): void;
  /** See `assembly/gradients.ts`. */
  sumSquares(x: number, count: number, output: number): void;
  /** See `assembly/gradients.ts`. */
  adamw(
    parameter: number,
    gradient: number,
    first: number,
    second: number,
    squares: number,
    count: number,
    keep: number,
    rate: number,
    beta1: number,
    rest1: number,
    beta2: number,
    rest2: number,
    correction: number,
    eps: number,
    maxNorm: number,
  ): void;
}

function decode(base64: string): Uint8Array<ArrayBuffer> {
  const binary = atob(base64);
  const bytes = new Uint8Array(binary.length);
  for (let i = 0; i < binary.length; i++) bytes[i] = binary.charCodeAt(i);
  return bytes;
}

/**
 * The bytes of the embedded kernels, for hosts that forbid compiling from bytes at run time: write them to a file at
 * build time, let the host compile it, and pass the module to `createBackend({ module })`.
 *
 * @example
 * ```ts
 * import { createBackend, wasmKernels } from "@levin/attention";
 *
 * const module = new WebAssembly.Module(wasmKernels("baseline"));
 * using backend = await createBackend({ prefer: "wasm", module });
 * ```
 *
 * @param variant `"relaxed"` needs relaxed SIMD (fused multiply-add), `"baseline"` runs on any SIMD engine
 * @param shared for `createBackend({ threads })` with more than one thread; default false
 */
export function wasmKernels(variant: "relaxed" | "baseline", shared = false): Uint8Array<ArrayBuffer> {
  const bytes = decode(variant === "relaxed" ? RELAXED : BASELINE);
  return shared ? withSharedMemory(bytes) : bytes;
}

/** How the module imports its memory: name, kind, and limits with a maximum. */
const MEMORY_IMPORT = [3, ...new TextEncoder().encode("env"), 6, ...new TextEncoder().encode("memory"), 2, 1];

/** The same kernels over shared memory: only the flag in the limits of the imported memory differs. */
function withSharedMemory(bytes: Uint8Array<ArrayBuffer>): Uint8Array<ArrayBuffer> {
  const at = bytes.findIndex((_, i) => MEMORY_IMPORT.every((byte, j) => bytes[i + j] === byte));
  bytes[at + MEMORY_IMPORT.length - 1] = 3;
  return bytes;
}

/** Compiles the build that this engine can run, over shared memory where several threads shall run it. */
export async function compileKernels(baseline: boolean, shared: boolean): Promise<WebAssembly.Module> {
  const variants = baseline ? ["baseline"] as const : ["relaxed", "baseline"] as const;
  for (const variant of variants) {
    const bytes = wasmKernels(variant, shared);
    // Validation is the feature detection: an engine without relaxed SIMD rejects the whole module.
    if (!WebAssembly.validate(bytes)) continue;
    try {
      return await WebAssembly.compile(bytes);
    } catch (cause) {
      throw new BackendError(
        "unavailable",
        "Cannot create the WASM backend as this host forbids compiling WebAssembly from bytes: " +
          "pass a precompiled module to createBackend({ module })",
        { cause },
      );
    }
  }
  throw new BackendError(
    "unavailable",
    "Cannot create the WASM backend as this engine has no WebAssembly SIMD",
  );
}
