// Activations of query and key, and their derivatives.

// import ../core/activations.ts, cosSin.wgsl

// One of core/activations.ts.
override ACTIVATION: u32;

const THREADS = 64u; // of a workgroup, which takes one head

var<workgroup> maxima: array<f32, THREADS>;

// The largest of the values of all threads.
fn maximumOver(value: f32, thread: u32) -> f32 {
  maxima[thread] = value;
  for (var half = THREADS / 2; half > 0; half /= 2) {
    workgroupBarrier();
    if (thread < half) { maxima[thread] = max(maxima[thread], maxima[thread + half]); }
  }
  return workgroupUniformLoad(&maxima[0]);
}

// `maximum` is that of the head, for "exp"; its gradient takes it as a constant.
fn activate(x: f32, maximum: f32) -> f32 {
  switch ACTIVATION {
    case SILU: { return x * sigmoid(x); }
    case ONE_PLUS_ELU: { return 1 + elu(x); }
    case TWO_PLUS_ELU: { return 2 + elu(x); }
    case ELU: { return elu(x); }
    case RELU: { return select(x, 0, x < 0); } // NaN stays NaN, which max() does not promise
    case GELU: { return gelu(x); }
    case LEAK: { return select(0.01 * x, x, x > 0); }
    case SIGMOID: { return sigmoid(x); }
    case SINE: { return sine(x); }
    case EXP: { return exp(x - maximum); }
    default: { return x; } // IDENTITY
  }
}

fn derivative(x: f32, maximum: f32) -> f32 {
  switch ACTIVATION {
    case SILU: { return sigmoid(x) * (1 + x * sigmoid(-x)); } // sigmoid(−x) = 1 − sigmoid(x), without cancellation
    case ONE_PLUS_ELU, TWO_PLUS_ELU, ELU: { if (x > 0) { return 1; } return exp(x); }
    case RELU: { return select(0.0, 1.0, x > 0); }
    case GELU: { return normal(x) + x * 0.3989422804014327 * exp(-0.5 * x * x); } // Φ(x) + x φ(x)
    case LEAK: { return select(0.01, 1.0, x > 0); }
    case SIGMOID: { return sigmoid(x) * sigmoid(-x); }
    case SINE: { return cosSin(x, 1).x; }
    case EXP: { return exp(x - maximum); }
    default: { return 1; } // IDENTITY
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

fn gelu(x: f32) -> f32 {
  if (x < -13) { return 0; } // also for −∞, where the product has no value
  return x * normal(x);
}

// Φ(x) = erfc(−x/√2) / 2. For z >= 0: erfc(z) = t · exp(−z² + p(t)), t = 1 / (1 + z/2), with p a fit of degree 9 in
// Chebyshev's sense over 0 <= z <= 10: relative error 2e−7.
fn normal(x: f32) -> f32 {
  let z = abs(x) * 0.7071067811865476;
  if (z > 9) { return select(1.0, 0.0, x < 0); }
  let t = 1 / (1 + 0.5 * z);
  let p = -1.265448 + t * (0.998632783 + t * (0.386640412 + t * (0.0346028006 + t * (0.00126758453 +
    t * (-0.0802804288 + t * (-0.696251903 + t * (1.15673376 + t * (-0.680827179 + t * 0.144930214))))))));
  let upper = 0.5 * t * exp(p - z * z); // 1 − Φ(|x|)
  return select(1 - upper, upper, x < 0);
}

fn sine(x: f32) -> f32 {
  if (abs(x) < 0.5) { // where the fixed point of cosSin has fewer digits than x
    let x2 = x * x;
    return x * (1 + x2 * (-1.0 / 6 + x2 * (1.0 / 120 - x2 / 5040)));
  }
  return cosSin(x, 1).y;
}
