// An operand of product.wgsl: rounded to f16, scaled by a power of two so that its largest element comes to 2^14 or above
// and below 2^15. Elements down to 2^−28 of the largest keep their 11 bits, and none becomes infinite.
//
//   largest     the largest element of each workgroup, of PARTS at most, as bits of f32 without the sign
//   round       the scaled operand, padded with zeros, and the exponent of its scale
//   roundRows   the same with a scale for each row, found on the way: where a row is no sum's term
//
// Infinities and NaN do not count for the scale, and stay what they are.

// import directives.wgsl, ../folded.wgsl, ../bfloat16.wgsl

override PACKED: bool; // x is bfloat16: X is u32, two elements to a word

const PARTS = 256u;
const VECTORS = 8u; // of the result, for each thread of round

struct Parameters {
  rows: u32,    // of x
  vectors: u32, // of 8 elements, in a row of x
  size: u32,    // of largest: vectors of x; of round: vectors of the result
  padded: u32,  // vectors in a row of the result
  parts: u32,   // workgroups of largest
  workgroups: u32,
}

@group(0) @binding(0) var<storage, read> x: array<vec4<X>>; // [rows, 2 · vectors], of PACKED [rows, vectors]
@group(1) @binding(0) var<uniform> parameters: Parameters;

var<workgroup> partial: array<u32, PARTS>;

// Vector `at` of 8 elements.
fn vectorOf(at: u32) -> mat2x4<f32> {
  if (PACKED) {
    let words = vec4<u32>(x[at]);
    return mat2x4<f32>(fromBfloat16s(words.xy), fromBfloat16s(words.zw));
  }
  return mat2x4<f32>(vec4<f32>(x[2u * at]), vec4<f32>(x[2u * at + 1u]));
}

const INFINITE = 0x7f800000u; // and NaN above it

// The largest of the threads of a workgroup, in partial[0].
fn gather(thread: u32, value: u32) {
  partial[thread] = value;
  for (var half = PARTS / 2u; half > 0u; half /= 2u) {
    workgroupBarrier();
    if (thread < half) { partial[thread] = max(partial[thread], partial[thread + half]); }
  }
  workgroupBarrier();
}

// The bits of elements without the sign; zero for infinities and NaN.
fn finite(elements: vec4<f32>) -> vec4<u32> {
  let bits = bitcast<vec4<u32>>(elements) & vec4<u32>(0x7fffffffu);
  return select(vec4<u32>(), bits, bits < vec4<u32>(INFINITE));
}

@group(0) @binding(1) var<storage, read_write> found: array<u32>; // [parts]

@compute @workgroup_size(256)
fn largest(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
  var most = vec4<u32>();
  let stride = parameters.parts * PARTS;
  for (var i = workgroup.x * PARTS + thread; i < parameters.size; i += 4u * stride) {
    for (var n = 0u; n < 4u; n++) { // four loads on their way
      let elements = vectorOf(min(i + n * stride, parameters.size - 1u));
      most = max(most, max(finite(elements[0]), finite(elements[1])));
    }
  }
  gather(thread, max(max(most.x, most.y), max(most.z, most.w)));
  if (thread == 0u) { found[workgroup.x] = partial[0]; }
}

@group(0) @binding(1) var<storage, read> known: array<u32>; // [parts]
@group(0) @binding(2) var<storage, read_write> halves: array<vec4<u32>>; // [padded rows, padded]
@group(0) @binding(3) var<storage, read_write> exponents: array<i32>; // [4], the same; of roundRows [padded rows]

// Two elements as f16, as bits. What packing makes of an infinity or NaN is open, so these are written out.
fn pair(elements: vec2<f32>, scale: f32) -> u32 {
  let packed = pack2x16float(elements * scale);
  let bits = bitcast<vec2<u32>>(elements);
  let size = bits & vec2<u32>(0x7fffffffu);
  let special = ((bits >> vec2<u32>(16u)) & vec2<u32>(0x8000u)) |
    select(vec2<u32>(0x7c00u), vec2<u32>(0x7e00u), size > vec2<u32>(INFINITE));
  let words = select(vec2<u32>(packed & 0xffffu, packed >> 16u), special, size >= vec2<u32>(INFINITE));
  return words.x | (words.y << 16u);
}

// Vector `at` of x, scaled.
fn rounded(at: u32, exponent: i32) -> vec4<u32> {
  let scale = bitcast<f32>(u32(exponent + 127) << 23u);
  let elements = vectorOf(at);
  return vec4<u32>(
    pair(elements[0].xy, scale),
    pair(elements[0].zw, scale),
    pair(elements[1].xy, scale),
    pair(elements[1].zw, scale),
  );
}

// The exponent of the scale: both it and, of all products that are not zero, its inverse are normal numbers.
fn exponentFor(largest: u32) -> i32 { return clamp(14 - (i32(largest >> 23u) - 127), -110, 110); }

@compute @workgroup_size(256)
fn round(
  @builtin(workgroup_id) workgroup: vec3<u32>,
  @builtin(num_workgroups) workgroups: vec3<u32>,
  @builtin(local_invocation_index) thread: u32,
) {
  let id = folded(workgroup, workgroups);
  if (id >= parameters.workgroups) { return; }
  gather(thread, select(0u, known[thread], thread < parameters.parts));
  let exponent = exponentFor(partial[0]);
  if (id == 0u && thread < 4u) { exponents[thread] = exponent; }
  for (var n = 0u; n < VECTORS; n++) {
    let i = (id * VECTORS + n) * PARTS + thread;
    if (i >= parameters.size) { return; }
    let row = i / parameters.padded;
    let at = i % parameters.padded;
    var words = vec4<u32>();
    if (row < parameters.rows && at < parameters.vectors) {
      words = rounded(row * parameters.vectors + at, exponent);
    }
    halves[i] = words;
  }
}

@compute @workgroup_size(256)
fn roundRows(
  @builtin(workgroup_id) workgroup: vec3<u32>,
  @builtin(num_workgroups) workgroups: vec3<u32>,
  @builtin(local_invocation_index) thread: u32,
) {
  let row = folded(workgroup, workgroups);
  if (row >= parameters.workgroups) { return; }
  let first = row * parameters.vectors;
  let count = select(0u, parameters.vectors, row < parameters.rows);
  var most = vec4<u32>();
  for (var i = thread; i < count; i += PARTS) {
    let elements = vectorOf(first + i);
    most = max(most, max(finite(elements[0]), finite(elements[1])));
  }
  gather(thread, max(max(most.x, most.y), max(most.z, most.w)));
  let exponent = exponentFor(partial[0]);
  if (thread == 0u) { exponents[row] = exponent; }
  for (var i = thread; i < parameters.padded; i += PARTS) {
    var words = vec4<u32>();
    if (i < count) { words = rounded(first + i, exponent); }
    halves[row * parameters.padded + i] = words;
  }
}
