/**
 * The operations on WebAssembly. An operation cuts its call into kernel calls that threads make in any order; the cuts
 * keep the order of every sum, so that results have the same bits for any number of threads.
 *
 * @module
 */
import type { Operations } from "../core/machine.ts";
import { ACTIVATION_NUMBERS } from "../core/ops/splitHeads.ts";
import type { Tensor } from "../core/tensor.ts";
import { type Crew, ranges } from "./crew.ts";
import type { Kernel } from "./exports.ts";
import { lightning, lightningBackward, lightningStep } from "./lightning.ts";
import { linear, linearBackward } from "./linear.ts";
import { at } from "./operands.ts";
import { unpackRows } from "./quantized.ts";

/** Multiply-adds that take as long as an element on its way from memory and back. */
const ELEMENT_WORK = 8;

/** The operations, as a crew computes them. */
export function operations(crew: Crew): Operations {
  /** Cuts what an operation reads and writes, `size` elements, into ranges of `count` rows, columns or elements. */
  const cut = (kernel: Kernel, count: number, size: number, multiple = 1) =>
    ranges(count, crew.parts(kernel, ELEMENT_WORK * size), multiple);

  /** Copies rows. On one thread: it moves bytes, which the others would only wait for too. */
  function copyRows(
    source: Tensor,
    indices: Uint32Array,
    scale: number,
    width: number,
    output: Tensor,
  ): void {
    const kernel = source.dtype === "bf16" ? "copyBfloat16Row" : "copyRow";
    indices.forEach((row, i) => {
      crew.call(kernel, { source: at(source, row * width), target: at(output, i * width), width, scale });
    });
  }

  return {
    lightning: (call) => lightning(crew, call),
    lightningStep: (call) => lightningStep(crew, call),
    lightningBackward: (call) => lightningBackward(crew, call),

    linear: (call) => linear(crew, call),
    linearBackward: (call) => linearBackward(crew, call),

    embedding({ table, ids, scale, width, output }) {
      if (table.quantization === undefined) return copyRows(table, ids, scale, width, output);
      const { memory } = crew;
      unpackRows(memory, table, table.quantization, ids, scale, memory.floats(at(output), output.size));
    },

    // On one thread, as an id that comes twice adds to one row twice.
    embeddingBackward({ ids, scale, width, dy, dTable }) {
      ids.forEach((id, i) => {
        crew.call("addRow", { source: at(dy, i * width), target: at(dTable, id * width), width, scale });
      });
    },

    gatherRows({ x, indices, width, output }) {
      copyRows(x, indices, 1, width, output);
    },

    scatterRows({ x, indices, width, target }) {
      indices.forEach((row, i) => {
        crew.call("copyRow", { source: at(x, i * width), target: at(target, row * width), width, scale: 1 });
      });
    },

    norm({ x, affine, eps, gate, rows, width, output }) {
      const calls = cut("norm", rows, x.size).map(({ start, count }) => ({
        x: at(x, start * width),
        weight: at(affine?.weight),
        bias: at(affine?.bias),
        gate: at(gate, start * width),
        output: at(output, start * width),
        rows: count,
        width,
        eps,
      }));
      crew.run("norm", calls, { work: ELEMENT_WORK * x.size });
    },

    // With parameters on one thread, as all rows add to dWeight and dBias.
    normBackward({ x, affine, eps, gate, rows, width, dy, residual, dx }) {
      const calls = (affine === undefined ? cut("normBackward", rows, x.size) : [{ start: 0, count: rows }])
        .map((
          { start, count },
        ) => ({
          x: at(x, start * width),
          weight: at(affine?.weight),
          bias: at(affine?.bias),
          gate: at(gate?.gate, start * width),
          dy: at(dy, start * width),
          residual: at(residual, start * width),
          dx: at(dx, start * width),
          dWeight: at(affine?.dWeight),
          dBias: at(affine?.dBias),
          dGate: at(gate?.dGate, start * width),
          rows: count,
          width,
          eps,
        }));
      crew.run("normBackward", calls, { work: ELEMENT_WORK * x.size });
    },

    splitHeads({ x, rows, hidden, headDim, activation, q, k, v, u }) {
      const joint = (u === undefined ? 3 : 4) * hidden;
      const calls = cut("splitHeads", rows, x.size).map(({ start, count }) => ({
        x: at(x, start * joint),
        q: at(q, start * hidden),
        k: at(k, start * hidden),
        v: at(v, start * hidden),
        u: at(u, start * hidden),
        rows: count,
        hidden,
        headDim,
        activation: ACTIVATION_NUMBERS[activation],
      }));
      crew.run("splitHeads", calls, { work: ELEMENT_WORK * x.size });
    },

    splitHeadsBackward({ x, rows, hidden, headDim, activation, dq, dk, dv, du, dx }) {
      const joint = (du === undefined ? 3 : 4) * hidden;
      const calls = cut("splitHeadsBackward", rows, x.size).map(({ start, count }) => ({
        x: at(x, start * joint),
        dq: at(dq, start * hidden),
        dk: at(dk, start * hidden),
        dv: at(dv, start * hidden),
        du: at(du, start * hidden),
        dx: at(dx, start * joint),
        rows: count,
        hidden,
        headDim,
        activation: ACTIVATION_NUMBERS[activation],
      }));
      crew.run("splitHeadsBackward", calls, { work: ELEMENT_WORK * x.size });
    },

    activate({ x, activation, rows, width, output }) {
      const calls = cut("activate", rows, x.size).map(({ start, count }) => ({
        x: at(x, start * width),
        output: at(output, start * width),
        rows: count,
        width,
        activation: ACTIVATION_NUMBERS[activation],
      }));
      crew.run("activate", calls, { work: ELEMENT_WORK * x.size });
    },

    activateBackward({ x, activation, rows, width, dy, dx }) {
      const calls = cut("activateBackward", rows, x.size).map(({ start, count }) => ({
        x: at(x, start * width),
        dy: at(dy, start * width),
        dx: at(dx, start * width),
        rows: count,
        width,
        activation: ACTIVATION_NUMBERS[activation],
      }));
      crew.run("activateBackward", calls, { work: ELEMENT_WORK * x.size });
    },

    // Threads take heads: over the tokens of one the angle advances step by step.
    lrpe({ x, theta, positions, output }) {
      const [batch, seqLen, heads, headDim] = x.shape;
      const calls = cut("lrpe", heads, x.size).flatMap(({ start, count }) =>
        Array.from({ length: batch }, (_, b) => ({
          x: at(x, (b * seqLen * heads + start) * headDim),
          theta: at(theta, start * headDim),
          output: at(output, 2 * (b * seqLen * heads + start) * headDim),
          seqLen,
          heads: count,
          headDim,
          stride: 4 * heads * headDim,
          position: positions[b],
        }))
      );
      crew.run("lrpe", calls, { work: ELEMENT_WORK * x.size });
    },

    // The same; all batch elements of a head add to its dTheta, in order.
    lrpeBackward({ x, theta, positions, dy, dx, dTheta }) {
      const [batch, seqLen, heads, headDim] = x.shape;
      const calls = cut("lrpeBackward", heads, x.size).flatMap(({ start, count }) =>
        Array.from({ length: batch }, (_, b) => ({
          x: at(x, (b * seqLen * heads + start) * headDim),
          theta: at(theta, start * headDim),
          dy: at(dy, 2 * (b * seqLen * heads + start) * headDim),
          dx: at(dx, (b * seqLen * heads + start) * headDim),
          dTheta: at(dTheta, start * headDim),
          seqLen,
          heads: count,
          headDim,
          stride: 4 * heads * headDim,
          position: positions[b],
        }))
      );
      crew.run("lrpeBackward", calls, { work: ELEMENT_WORK * x.size, chain: Math.max(1, batch) });
    },

    multiply({ x, y, output }) {
      const calls = cut("multiply", output.size, output.size, 4).map(({ start, count }) => ({
        x: at(x, start),
        y: at(y, start),
        output: at(output, start),
        count,
      }));
      crew.run("multiply", calls, { work: ELEMENT_WORK * output.size });
    },

    crossEntropy({ logits, labels, scale, vocab, loss, dLogits }) {
      const calls = Array.from(labels, (label, row) => ({
        logits: at(logits, row * vocab),
        vocab,
        label,
        scale,
        loss: at(loss, row),
        dLogits: at(dLogits, row * vocab),
      }));
      crew.run("crossEntropy", calls, { work: ELEMENT_WORK * logits.size });
    },

    // Threads take columns: a column's sum runs over the rows in order.
    sumRows({ x, rows, width, total }) {
      const calls = cut("sumRows", width, x.size, 16).map(({ start, count }) => ({
        x: at(x, start),
        total: at(total, start),
        rows,
        width: count,
        stride: 4 * width,
      }));
      crew.run("sumRows", calls, { work: ELEMENT_WORK * x.size });
    },

    // On one thread, as one sum runs over all elements in order.
    sumSquares({ x, total }) {
      crew.call("sumSquares", { x: at(x), count: x.size, total: at(total) });
    },

    adamw(call) {
      const { parameter, gradient, first, second, squares } = call;
      const { count: t, learningRate, beta1, beta2, eps, weightDecay, maxNorm } = call;
      const calls = cut("adamw", parameter.size, parameter.size, 4).map(({ start, count }) => ({
        parameter: at(parameter, start),
        gradient: at(gradient, start),
        first: at(first, start),
        second: at(second, start),
        squares: at(squares),
        count,
        keep: 1 - learningRate * weightDecay,
        rate: learningRate / (1 - beta1 ** t),
        beta1,
        rest1: 1 - beta1,
        beta2,
        rest2: 1 - beta2,
        correction: 1 / Math.sqrt(1 - beta2 ** t),
        eps,
        maxNorm,
      }));
      crew.run("adamw", calls, { work: ELEMENT_WORK * parameter.size });
    },
  };
}
