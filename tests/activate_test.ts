import assert from "node:assert/strict";
import { activateBackward } from "../core/gradients.ts";
import { activate, ACTIVATIONS } from "../core/ops.ts";
import { assertClose, eachBackend, poison, randomArray, Scope } from "./harness.ts";
import * as reference from "./reference.ts";
import { derivative } from "./reference_gradients.ts";

const LIMIT = 2e-6;

eachBackend(
  "activate and its gradient: every activation, over its whole range, any shape",
  async (backend) => {
    for (const activation of ACTIVATIONS) {
      for (const shape of [[1], [3, 7], [2, 3, 5], [1, 130], [0, 4], [4, 0]]) {
        using scope = new Scope();
        const width = shape.at(-1)!;
        // From deep in the tails to the smallest values, where elu and gelu lose digits if done carelessly.
        const x = randomArray(shape, 7).map((value, i) => value * [1e-4, 0.3, 3, 20, 90][i % 5]);
        const dy = randomArray(shape, 8);
        const tx = scope.keep(backend.tensor(x, shape)), tdy = scope.keep(backend.tensor(dy, shape));
        poison(backend, shape, shape);
        const y = scope.keep(activate(tx, activation));
        const dx = scope.keep(activateBackward(tx, activation, tdy));
        assert.deepEqual([y.shape, dx.shape], [shape, shape]);
        const what = `${activation} of [${shape}]`;
        assertClose(await y.data(), reference.activate(x, width, activation), LIMIT, what);
        const slopes = derivative(x, width, activation);
        assertClose(await dx.data(), slopes.map((slope, i) => slope * dy[i]), LIMIT, `gradient of ${what}`);
      }
    }
    using x = backend.zeros([2, 3]), dy = backend.zeros([3, 2]);
    assert.throws(() => activate(x, "tanh" as never), /Cannot run activate as activation must be one of/);
    assert.throws(
      () => activateBackward(x, "silu", dy),
      /dy must have shape of x = \[2, 3\]/,
    );
  },
);
