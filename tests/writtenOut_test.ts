import assert from "node:assert/strict";
import type { Shader } from "../gpu/shader.ts";
import { evaluate, writtenOut } from "../gpu/units/writtenOut.ts";

Deno.test("writtenOut: integer expressions of WGSL", () => {
  const names = new Map([["N", 12], ["K", 5]]);
  const cases: [string, number][] = [
    ["3u", 3],
    ["N", 12],
    ["N / K", 2],
    ["(N + K - 1u) / K", 3],
    ["max(N, 2u * K) / 8u + 1u", 2],
    ["N % K * 2u - 1u", 3],
    ["2u * (3u + N) / 4u / 2u", 3],
    ["count", NaN],
    ["N + ", NaN],
    ["(N", NaN],
    ["N && K", NaN],
  ];
  for (const [text, value] of cases) assert.equal(evaluate(text, names), value, text);
});

Deno.test("writtenOut: loops of known length, and arrays that aliases declare", () => {
  const code = `override N: u32;
override TWICE = 2u * N;
fn add(xs: ptr<function, Xs>, y: f32) {
  for (var i = 0u; i < N; i++) { (*xs)[i] += y; }
}
fn both(xs: ptr<function, Xs>, y: f32) { add(xs, y); }
@compute @workgroup_size(1)
fn main() {
  var xs: Xs;
  var others: array<f32, 2>;
  for (var i = 0u; i < count; i++) {
    for (var j = 0u; j < TWICE / 2u; j++) { xs[TWICE - j - N - 1u] = others[i]; }
  }
  both(&xs, 1.0);
}
`;
  const shader = { code, overrides: ["N"], aliases: ["Xs"] } as unknown as Shader;
  const options = { types: { Xs: "array<Matrix, 2>" }, constants: { N: 2 } };
  const written = writtenOut(shader, options);
  assert.equal(
    written.code,
    `override N: u32;
override TWICE = 2u * N;
fn add(xs_0: ptr<function, Matrix>, xs_1: ptr<function, Matrix>, y: f32) {
  { (*xs_0) += y; }
{ (*xs_1) += y; }

}
fn both(xs_0: ptr<function, Matrix>, xs_1: ptr<function, Matrix>, y: f32) { add(xs_0, xs_1, y); }
@compute @workgroup_size(1)
fn main() {
  var xs_0: Matrix; var xs_1: Matrix;
  var others: array<f32, 2>;
  for (var i = 0u; i < count; i++) {
    { xs_1 = others[i]; }
{ xs_0 = others[i]; }

  }
  both(&xs_0, &xs_1, 1.0);
}
`,
  );
  assert.equal(writtenOut(shader, { ...options }), written);
  assert.notEqual(writtenOut(shader, { ...options, constants: { N: 1 } }), written);
});
