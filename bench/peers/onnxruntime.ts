/**
 * onnxruntime-web, the runtime that browsers and edge functions would take instead: its WASM kernels, one thread. A run
 * takes operands from and gives its result to JavaScript, as every use of it does; weights are part of the model.
 *
 * @module
 */
import { env, InferenceSession, Tensor } from "onnxruntime-web";
import { assertClose } from "../../tests/numbers.ts";
import * as reference from "../../tests/reference.ts";
import type { AttentionSizes } from "../baselines/mod.ts";
import { type Case, describe } from "../measure/cases.ts";
import { checkSoftmax, noise, operands } from "../measure/operands.ts";
import { type Node, onnxModel, type Operand } from "./onnx.ts";

env.wasm.numThreads = 1;

/** A model of one node with the operands that each run passes. */
class OneNode {
  readonly #session: InferenceSession;
  readonly #feeds: Record<string, Tensor>;
  readonly #output: string;

  private constructor(session: InferenceSession, feeds: Record<string, Tensor>, output: string) {
    this.#session = session;
    this.#feeds = feeds;
    this.#output = output;
  }

  static async create(node: Node, data: Record<string, Float32Array>): Promise<OneNode> {
    // Its first session puts node:worker_threads' Worker in the place of the global one, which others need.
    const { Worker } = globalThis;
    const session = await InferenceSession.create(onnxModel(node), { executionProviders: ["wasm"] });
    globalThis.Worker = Worker;
    const feeds = node.operands.filter(({ constant }) => constant === undefined)
      .map(({ name, shape }) => [name, new Tensor("float32", data[name], shape)]);
    return new OneNode(session, Object.fromEntries(feeds), node.output.name);
  }

  async run(): Promise<Float32Array> {
    const results = await this.#session.run(this.#feeds);
    return results[this.#output].data as Float32Array;
  }

  /** What a case of it has besides its numbers. */
  get runs(): Pick<Case, "run" | typeof Symbol.dispose> {
    return {
      run: async () => void await this.run(),
      [Symbol.dispose]: () => void this.#session.release(),
    };
  }
}

/** MatMul by a constant matrix. */
export async function onnxLinearCase(rows: number, inDim: number, outDim: number): Promise<Case> {
  const x = noise([rows, inDim], 1), weight = noise([outDim, inDim], 2);
  const transposed = new Float32Array(weight.length);
  for (let i = 0; i < outDim; i++) {
    for (let j = 0; j < inDim; j++) transposed[j * outDim + i] = weight[i * inDim + j];
  }
  const model = await OneNode.create({
    operator: "MatMul",
    operands: [
      { name: "x", shape: [rows, inDim] },
      { name: "weight", shape: [inDim, outDim], constant: transposed },
    ],
    output: { name: "y", shape: [rows, outDim] },
  }, { x });
  const actual = await model.run();
  for (const row of new Set([0, rows >> 1, rows - 1])) {
    const xRow = x.subarray(row * inDim, (row + 1) * inDim);
    const expected = reference.linear(xRow, weight, [1, inDim, outDim]);
    assertClose(actual.subarray(row * outDim, (row + 1) * outDim), expected, 1e-5, `row ${row} of ${rows}`);
  }
  return {
    name: "onnxruntime-web MatMul",
    operations: 2 * rows * inDim * outDim,
    bytes: 0,
    tokens: rows,
    ...model.runs,
  };
}

/** Causal softmax attention: `MultiHeadAttention`, unidirectional. It fails where n × n scores are too many for it. */
export async function onnxAttentionCase(sizes: AttentionSizes): Promise<Case> {
  const { heads, seqLen, headDim, valueDim } = sizes;
  const { q, k, v } = operands(sizes);
  const toRows = (x: Float32Array, dim: number) => reference.toBnhd(x, [1, heads, seqLen, dim]);
  const rows = (name: string, dim: number): Operand => ({ name, shape: [1, seqLen, heads * dim] });
  const model = await OneNode.create({
    operator: "MultiHeadAttention",
    domain: "com.microsoft",
    operands: [rows("q", headDim), rows("k", headDim), rows("v", valueDim)],
    output: rows("y", valueDim),
    integers: { num_heads: heads, unidirectional: 1 },
  }, { q: toRows(q, headDim), k: toRows(k, headDim), v: toRows(v, valueDim) });
  // [seqLen, heads, dim] to [heads, seqLen, dim]: the same swap, the other way.
  const actual = reference.toBnhd(await model.run(), [1, seqLen, heads, valueDim]);
  checkSoftmax(actual, { q, k, v }, sizes, 1 / Math.sqrt(headDim));
  return {
    name: `onnxruntime-web causal attention, ${describe(sizes)}`,
    operations: 0,
    bytes: 0,
    tokens: seqLen,
    ...model.runs,
  };
}

/** RMSNorm with weights of one, which is SRMSNorm. */
export async function onnxNormCase(rows: number, width: number): Promise<Case> {
  const x = noise([rows, width], 1);
  const model = await OneNode.create({
    operator: "SimplifiedLayerNormalization",
    operands: [
      { name: "x", shape: [rows, width] },
      { name: "scale", shape: [width], constant: new Float32Array(width).fill(1) },
    ],
    output: { name: "y", shape: [rows, width] },
    integers: { axis: -1 },
    floats: { epsilon: 1e-6 },
  }, { x });
  assertClose(await model.run(), reference.norm(x, width, 1e-6), 1e-5);
  return {
    name: "onnxruntime-web RMSNorm",
    operations: 0,
    bytes: 8 * rows * width,
    tokens: rows,
    ...model.runs,
  };
}
