// Conventional attention of one query per head over a cache of keys and values, as models generate with it. The cache is
// cut into chunks, so that long ones fill the GPU ("Flash-Decoding"):
//   append   one thread per 4 elements of a token's key and value: puts them into the cache
//   partial  one workgroup per (chunk, head), one thread per key: maximum, sum and weighted values of the chunk
//   combine  one workgroup per head: adds up the chunks
// Scores are to base 2: scoreScale is scale · log2(e). Dimensions are in vectors, up to 32.

const CHUNK = 256u;

struct Parameters {
  length: u32,   // tokens in the cache; of append with the one that it adds
  capacity: u32,
  heads: u32,
  headDim: u32,
  valueDim: u32,
  chunks: u32,
  scoreScale: f32,
}

// append
@group(0) @binding(0) var<storage, read> key: array<vec4f>;   // [heads, headDim]
@group(0) @binding(1) var<storage, read> value: array<vec4f>; // [heads, valueDim]
@group(0) @binding(2) var<storage, read_write> keyCache: array<vec4f>;   // as keys
@group(0) @binding(3) var<storage, read_write> valueCache: array<vec4f>; // as values
// partial
@group(0) @binding(0) var<storage, read> q: array<vec4f>;      // [heads, headDim]
@group(0) @binding(1) var<storage, read> keys: array<vec4f>;   // [heads, headDim, capacity]: threads read neighbours
@group(0) @binding(2) var<storage, read> values: array<vec4f>; // [heads, capacity, valueDim]
@group(0) @binding(3) var<storage, read_write> partials: array<vec4f>; // [heads, chunks, valueDim + 1]: last maximum, sum
// combine
@group(0) @binding(0) var<storage, read> found: array<vec4f>; // partials
@group(0) @binding(1) var<storage, read_write> output: array<vec4f>; // [heads, valueDim]
@group(1) @binding(0) var<uniform> parameters: Parameters;

@compute @workgroup_size(64)
fn append(@builtin(global_invocation_id) thread: vec3u) {
  let id = thread.x;
  let head = id / (parameters.headDim + parameters.valueDim);
  let column = id % (parameters.headDim + parameters.valueDim);
  let token = parameters.length - 1u;
  if (head >= parameters.heads) { return; }
  if (column < parameters.headDim) {
    let row = head * parameters.headDim + column;
    keyCache[row * parameters.capacity + token] = key[row];
  } else {
    let c = column - parameters.headDim;
    valueCache[(head * parameters.capacity + token) * parameters.valueDim + c] = value[head * parameters.valueDim + c];
  }
}

var<workgroup> numbers: array<f32, CHUNK>;
var<workgroup> weights: array<f32, CHUNK>;
var<workgroup> sums: array<vec4f, CHUNK>;

fn largest(x: f32, thread: u32) -> f32 {
  workgroupBarrier();
  numbers[thread] = x;
  for (var half = CHUNK / 2u; half > 0u; half /= 2u) {
    workgroupBarrier();
    if (thread < half) { numbers[thread] = max(numbers[thread], numbers[thread + half]); }
  }
  workgroupBarrier();
  return numbers[0];
}

fn total(x: f32, thread: u32) -> f32 {
  workgroupBarrier();
  numbers[thread] = x;
  for (var half = CHUNK / 2u; half > 0u; half /= 2u) {
    workgroupBarrier();
    if (thread < half) { numbers[thread] += numbers[thread + half]; }
  }
  workgroupBarrier();
  return numbers[0];
}

// The sum of what the threads of one column hold; `slots` threads share each column.
fn columnTotal(x: vec4f, thread: u32, slots: u32) -> vec4f {
  sums[thread] = x;
  workgroupBarrier();
  var sum = vec4f();
  if (thread < parameters.valueDim) {
    for (var slot = 0u; slot < slots; slot++) { sum += sums[slot * parameters.valueDim + thread]; }
  }
  return sum;
}

@compute @workgroup_size(CHUNK)
fn partial(@builtin(workgroup_id) workgroup: vec3u, @builtin(local_invocation_index) thread: u32) {
  let chunk = workgroup.x;
  let head = workgroup.y;
  let first = chunk * CHUNK;
  let inside = first + thread < parameters.length;
  var score = -1e30;
  if (inside) {
    score = 0.0;
    for (var c = 0u; c < parameters.headDim; c++) {
      let row = head * parameters.headDim + c;
      score += dot(q[row], keys[row * parameters.capacity + first + thread]);
    }
    score *= parameters.scoreScale;
  }
  let top = largest(score, thread);
  let weight = select(0.0, exp2(score - top), inside);
  weights[thread] = weight;
  let sum = total(weight, thread);

  let width = parameters.valueDim;
  let slots = CHUNK / width;
  let column = thread % width;
  let count = min(CHUNK, parameters.length - first);
  var weighted = vec4f();
  if (thread < slots * width) {
    for (var i = thread / width; i < count; i += slots) {
      weighted += weights[i] * values[(head * parameters.capacity + first + i) * width + column];
    }
  }
  let result = columnTotal(weighted, thread, slots);
  let at = (head * parameters.chunks + chunk) * (width + 1u);
  if (thread < width) { partials[at + thread] = result; }
  if (thread == width) { partials[at + width] = vec4f(top, sum, 0.0, 0.0); }
}

@compute @workgroup_size(CHUNK)
fn combine(@builtin(workgroup_id) workgroup: vec3u, @builtin(local_invocation_index) thread: u32) {
  let head = workgroup.x;
  let width = parameters.valueDim;
  let start = head * parameters.chunks;
  var top = -1e30;
  for (var i = thread; i < parameters.chunks; i += CHUNK) { top = max(top, found[(start + i) * (width + 1u) + width].x); }
  top = largest(top, thread);
  var sum = 0.0;
  for (var i = thread; i < parameters.chunks; i += CHUNK) {
    let ofChunk = found[(start + i) * (width + 1u) + width];
    sum += exp2(ofChunk.x - top) * ofChunk.y;
  }
  sum = total(sum, thread);

  let slots = CHUNK / width;
  var weighted = vec4f();
  if (thread < slots * width) {
    for (var i = thread / width; i < parameters.chunks; i += slots) {
      let at = (start + i) * (width + 1u);
      weighted += exp2(found[at + width].x - top) * found[at + thread % width];
    }
  }
  let result = columnTotal(weighted, thread, slots);
  if (thread < width) { output[head * width + thread] = result / sum; }
}
