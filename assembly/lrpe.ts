// LRPE, the rotary encoding of TransNormerLLM, and its gradients, over the tokens of one batch element. The angle advances
// by a rotation in float64, whose error after a million tokens is 1e−10.

/**
 * Forward: `[x·cos(θp), x·sin(θp)]`, p from `position` on. x `[seqLen, heads, headDim]` and theta `[heads, headDim]`
 * begin at the first of `heads` heads; tokens of x are `stride` bytes apart, those of output twice that.
 */
export function lrpe(
  x: usize, theta: usize, output: usize, seqLen: i32, heads: i32, headDim: i32, stride: usize,
  position: f64,
): void {
  for (let h = 0; h < heads; h++) {
    for (let i = 0; i < headDim; i++) {
      const angle = <f64> load<f32>(theta + (<usize> (h * headDim + i) << 2));
      const stepCos = Math.cos(angle), stepSin = Math.sin(angle);
      let c = Math.cos(angle * position), s = Math.sin(angle * position);
      let from = x + (<usize> (h * headDim + i) << 2);
      let to = output + (<usize> (2 * h * headDim + i) << 2);
      for (let t = 0; t < seqLen; t++) {
        const value = <f64> load<f32>(from);
        store<f32>(to, <f32> (value * c));
        store<f32>(to + (<usize> headDim << 2), <f32> (value * s));
        const next = c * stepCos - s * stepSin;
        s = s * stepCos + c * stepSin;
        c = next;
        from += stride;
        to += 2 * stride;
      }
    }
  }
}

/**
 * Gradients, heads and strides as in the forward. With dy = [a, b]: `dx = a·cos(θp) + b·sin(θp)`,
 * `dTheta += Σ_t p · x · (b·cos(θp) − a·sin(θp))`.
 */
export function lrpeBackward(
  x: usize, theta: usize, dy: usize, dx: usize, dTheta: usize, seqLen: i32, heads: i32, headDim: i32, stride: usize,
  position: f64,
): void {
  for (let h = 0; h < heads; h++) {
    for (let i = 0; i < headDim; i++) {
      const index = <usize> (h * headDim + i) << 2;
      const angle = <f64> load<f32>(theta + index);
      const stepCos = Math.cos(angle), stepSin = Math.sin(angle);
      let c = Math.cos(angle * position), s = Math.sin(angle * position);
      let at = index, from = dy + (<usize> (2 * h * headDim + i) << 2);
      let sum: f64 = 0;
      for (let t = 0; t < seqLen; t++) {
        const a = <f64> load<f32>(from), b = <f64> load<f32>(from + (<usize> headDim << 2));
        store<f32>(dx + at, <f32> (a * c + b * s));
        sum += (position + <f64> t) * <f64> load<f32>(x + at) * (b * c - a * s);
        const next = c * stepCos - s * stepSin;
        s = s * stepCos + c * stepSin;
        c = next;
        at += stride;
        from += 2 * stride;
      }
      store<f32>(dTheta + index, <f32> (<f64> load<f32>(dTheta + index) + sum));
    }
  }
}
