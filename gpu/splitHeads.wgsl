// Splits a row [query | key | value | gate] of x, each of `hidden` elements, and activates query and key. One workgroup
// per head of one part of one row.

// ACTIVATIONS of splitHeads.ts, in its order.
override ACTIVATION: u32;

const QUERY = 0u;
const KEY = 1u;
const VALUE = 2u;

struct Parameters {
  workgroups: u32, // rows · 4 · heads
  heads: u32,
  headDim: u32,
}

@group(0) @binding(0) var<storage, read> x: array<X>;
@group(0) @binding(1) var<storage, read_write> q: array<Output>;
@group(0) @binding(2) var<storage, read_write> k: array<Output>;
@group(0) @binding(3) var<storage, read_write> v: array<Output>;
@group(0) @binding(4) var<storage, read_write> u: array<Output>;
@group(1) @binding(0) var<uniform> parameters: Parameters;

var<workgroup> maxima: array<f32, 64>;

@compute @workgroup_size(64)
fn main(
  @builtin(workgroup_id) workgroup: vec3u,
  @builtin(num_workgroups) workgroups: vec3u,
  @builtin(local_invocation_index) thread: u32,
) {
  let index = workgroup.x + workgroup.y * workgroups.x;
  if (index >= parameters.workgroups) { return; }
  let headDim = parameters.headDim;
  let head = index % parameters.heads;
  let part = index / parameters.heads % 4;
  let row = index / parameters.heads / 4;
  let source = index * headDim; // rows, parts and heads lie in this order
  let destination = (row * parameters.heads + head) * headDim;

  var maximum = 0.0;
  if (ACTIVATION == 10) { maximum = maximumOf(source, headDim, thread); }
  for (var i = thread; i < headDim; i += 64) {
    let value = f32(x[source + i]);
    switch part {
      case QUERY: { q[destination + i] = Output(activate(value, maximum)); }
      case KEY: { k[destination + i] = Output(activate(value, maximum)); }
      case VALUE: { v[destination + i] = Output(value); }
      default: { u[destination + i] = Output(value); }
    }
  }
}

// The largest of `headDim` elements.
fn maximumOf(first: u32, headDim: u32, thread: u32) -> f32 {
  var maximum = f32(x[first]);
  for (var i = thread; i < headDim; i += 64) { maximum = max(maximum, f32(x[first + i])); }
  maxima[thread] = maximum;
  for (var half = 32u; half > 0; half /= 2) {
    workgroupBarrier();
    if (thread < half) { maxima[thread] = max(maxima[thread], maxima[thread + half]); }
  }
  return workgroupUniformLoad(&maxima[0]);
}

fn activate(x: f32, maximum: f32) -> f32 {
  switch ACTIVATION {
    case 1: { return x * sigmoid(x); } // silu
    case 2: { return 1 + elu(x); }
    case 3: { return 2 + elu(x); }
    case 4: { return elu(x); }
    case 5: { return select(x, 0, x < 0); } // relu; NaN stays NaN, which max() does not promise
    case 6: { return gelu(x); }
    case 7: { return select(0.01 * x, x, x > 0); } // leak
    case 8: { return sigmoid(x); }
    case 9: { return sine(x); }
    case 10: { return exp(x - maximum); }
    default: { return x; } // identity
  }
}

// 1 / (1 + exp(−x)), without the overflow of exp, which WGSL does not define.
fn sigmoid(x: f32) -> f32 {
  return 1 / (1 + exp(select(-x, 80, x < -80)));
}

// x for x > 0, exp(x) − 1 otherwise, by its series near 0, where the difference would cancel.
fn elu(x: f32) -> f32 {
  if (x > 0) { return x; }
  if (x > -0.25) { return x * (1 + x / 2 * (1 + x / 3 * (1 + x / 4 * (1 + x / 5 * (1 + x / 6))))); }
  return exp(x) - 1;
}

// x · Φ(x), Φ(x) = erfc(−x/√2) / 2. For z >= 0: erfc(z) = t · exp(−z² + p(t)), t = 1 / (1 + z/2), with p a fit of degree 9
// in Chebyshev's sense over 0 <= z <= 10: relative error 2e−7.
fn gelu(x: f32) -> f32 {
  let z = abs(x) * 0.7071067811865476;
  if (z > 9) { return select(x, 0, x < 0); }
  let t = 1 / (1 + 0.5 * z);
  let p = -1.265448 + t * (0.998632783 + t * (0.386640412 + t * (0.0346028006 + t * (0.00126758453 +
    t * (-0.0802804288 + t * (-0.696251903 + t * (1.15673376 + t * (-0.680827179 + t * 0.144930214))))))));
  let upper = 0.5 * t * exp(p - z * z); // 1 − Φ(|x|)
  return x * select(1 - upper, upper, x < 0);
}

fn sine(x: f32) -> f32 {
  if (abs(x) < 0.5) { // where the fixed point of cosSin has fewer digits than x
    let x2 = x * x;
    return x * (1 + x2 * (-1.0 / 6 + x2 * (1.0 / 120 - x2 / 5040)));
  }
  return cosSin(x, 1).y;
}
