// Read from gpu/units/*.wgsl by `deno task build`: do not edit.
// deno-fmt-ignore-file
// deno-lint-ignore-file

// gpu/units/directives.wgsl
const directivesSource = `enable f16;
enable subgroups;
enable chromium_experimental_subgroup_matrix;
diagnostic(off, chromium.subgroup_matrix_uniformity);
`;

// gpu/folded.wgsl
const foldedSource = `fn folded(workgroup: vec3u, workgroups: vec3u) -> u32 {
  return workgroup.x + workgroup.y * workgroups.x;
}
`;

// gpu/bfloat16.wgsl
const bfloat16Source = `fn fromBfloat16s(words: vec2<u32>) -> vec4<f32> {
  return bitcast<vec4<f32>>(vec4<u32>(words.x << 16u, words.x & 0xffff0000u, words.y << 16u, words.y & 0xffff0000u));
}
fn fromBfloat16(word: u32, second: bool) -> f32 {
  return bitcast<f32>(select(word << 16u, word & 0xffff0000u, second));
}
`;

// gpu/units/halves.wgsl
const halvesSource = `override PACKED: bool;
const PARTS = 256u;
const VECTORS = 8u;
struct Parameters {
  rows: u32,
  vectors: u32,
  size: u32,
  padded: u32,
  parts: u32,
  workgroups: u32,
}
@group(0) @binding(0) var<storage, read> x: array<vec4<X>>;
@group(0) @binding(15) var<uniform> parameters: Parameters;
var<workgroup> partial: array<u32, PARTS>;
fn vectorOf(at: u32) -> mat2x4<f32> {
  if (PACKED) {
    let words = vec4<u32>(x[at]);
    return mat2x4<f32>(fromBfloat16s(words.xy), fromBfloat16s(words.zw));
  }
  return mat2x4<f32>(vec4<f32>(x[2u * at]), vec4<f32>(x[2u * at + 1u]));
}
const INFINITE = 0x7f800000u;
fn gather(thread: u32, value: u32) {
  partial[thread] = value;
  for (var half = PARTS / 2u; half > 0u; half /= 2u) {
    workgroupBarrier();
    if (thread < half) { partial[thread] = max(partial[thread], partial[thread + half]); }
  }
  workgroupBarrier();
}
fn finite(elements: vec4<f32>) -> vec4<u32> {
  let bits = bitcast<vec4<u32>>(elements) & vec4<u32>(0x7fffffffu);
  return select(vec4<u32>(), bits, bits < vec4<u32>(INFINITE));
}
@group(0) @binding(1) var<storage, read_write> found: array<u32>;
@compute @workgroup_size(256)
fn largest(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
  var most = vec4<u32>();
  let stride = parameters.parts * PARTS;
  for (var i = workgroup.x * PARTS + thread; i < parameters.size; i += 4u * stride) {
    for (var n = 0u; n < 4u; n++) {
      let elements = vectorOf(min(i + n * stride, parameters.size - 1u));
      most = max(most, max(finite(elements[0]), finite(elements[1])));
    }
  }
  gather(thread, max(max(most.x, most.y), max(most.z, most.w)));
  if (thread == 0u) { found[workgroup.x] = partial[0]; }
}
@group(0) @binding(1) var<storage, read> known: array<u32>;
@group(0) @binding(2) var<storage, read_write> halves: array<vec4<u32>>;
@group(0) @binding(3) var<storage, read_write> exponents: array<i32>;
fn pair(elements: vec2<f32>, scale: f32) -> u32 {
  let packed = pack2x16float(elements * scale);
  let bits = bitcast<vec2<u32>>(elements);
  let size = bits & vec2<u32>(0x7fffffffu);
  let special = ((bits >> vec2<u32>(16u)) & vec2<u32>(0x8000u)) |
    select(vec2<u32>(0x7c00u), vec2<u32>(0x7e00u), size > vec2<u32>(INFINITE));
  let words = select(vec2<u32>(packed & 0xffffu, packed >> 16u), special, size >= vec2<u32>(INFINITE));
  return words.x | (words.y << 16u);
}
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
`;

// gpu/units/lightning.wgsl
const lightningSource = `override UNIT: u32;
override THREADS: u32;
override SUBGROUPS: u32;
override LANES: u32;
override HEAD: u32;
override VALUE: u32;
override HALF: bool;
override REVERSE: bool;
override SUMS: bool;
override BLOCK: u32;
override DECAYS: u32;
override CHUNK: u32;
override COLUMNS: u32;
override ACROSS: u32;
override HIGH: u32;
override ROWS: u32;
override KEYS: u32;
override BUFFERS: u32;
override STRIPS: u32;
override PASS: u32;
override OUTPUT_HALF: bool;
struct Shape {
  query: vec4<u32>,
  key: vec4<u32>,
  value: vec4<u32>,
  queryGroup: u32,
  keyGroup: u32,
  heads: u32,
  firstHead: u32,
  headCount: u32,
  workgroups: u32,
  segments: u32,
  sequences: u32,
  stateOrigin: u32,
  keyScale: f32,
  queryScale: f32,
}
@group(0) @binding(15) var<uniform> shape: Shape;
@group(0) @binding(0) var<storage, read> table: array<vec4<u32>>;
@group(0) @binding(1) var<storage, read> decays: array<f32>;
@group(0) @binding(2) var<storage, read_write> scratch: array<StateSums>;
@group(0) @binding(3) var<storage, read> k: array<vec4<u32>>;
@group(0) @binding(4) var<storage, read> v: array<vec4<u32>>;
@group(0) @binding(5) var<storage, read> q: array<vec4<u32>>;
@group(0) @binding(6) var<storage, read_write> output: array<vec4<u32>>;
@group(0) @binding(7) var<storage, read_write> state: array<StateSums>;
@group(0) @binding(8) var<storage, read_write> states: array<StateHalves>;
@group(0) @binding(9) var<storage, read_write> exponents: array<i32>;
@group(0) @binding(8) var<storage, read> chunkStates: array<StateHalves>;
@group(0) @binding(9) var<storage, read> chunkExponents: array<i32>;
override WALK_KEY_STRIDE = HEAD / 8u / SUBGROUPS + 1u;
override WALK_VALUE_STRIDE = COLUMNS / 8u + 1u;
var<workgroup> walkKeys: array<WalkKeyStrip, SUBGROUPS>;
var<workgroup> walkValues: WalkValueStrip;
override STRIDE = HEAD / 8u + 1u;
override VALUE_STRIDE = VALUE / ACROSS / 8u + 1u;
override PRODUCT_STRIDE = KEYS / ACROSS / 4u + 1u;
override MASKED_STRIDE = KEYS / 8u + 1u;
override QUERY_STRIPS = ROWS / UNIT;
override VALUE_STRIPS = BUFFERS * KEYS / UNIT * ACROSS;
override PRODUCT_STRIPS = QUERY_STRIPS * ACROSS;
var<workgroup> strips: array<Strip, STRIPS>;
var<workgroup> valueStrips: array<ValueStrip, VALUE_STRIPS>;
var<workgroup> products: array<ProductStrip, PRODUCT_STRIPS>;
var<workgroup> masked: array<MaskedStrip, QUERY_STRIPS>;
var<workgroup> largest: array<array<vec2<u32>, 32>, 2>;
struct Packed { first: vec4<u32>, second: vec4<u32> }
fn unpacked(x: Packed) -> mat2x4<f32> {
  if (HALF) {
    return mat2x4<f32>(
      vec4<f32>(bitcast<vec4<f16>>(x.first.xy)),
      vec4<f32>(bitcast<vec4<f16>>(x.first.zw)),
    );
  }
  return mat2x4<f32>(bitcast<vec4<f32>>(x.first), bitcast<vec4<f32>>(x.second));
}
fn halves(x: mat2x4<f32>) -> vec4<u32> {
  return vec4<u32>(bitcast<vec2<u32>>(vec4<f16>(x[0])), bitcast<vec2<u32>>(vec4<f16>(x[1])));
}
fn readKey(at: u32) -> Packed {
  if (HALF) { return Packed(k[at], vec4<u32>()); }
  return Packed(k[2u * at], k[2u * at + 1u]);
}
fn readQuery(at: u32) -> Packed {
  if (HALF) { return Packed(q[at], vec4<u32>()); }
  return Packed(q[2u * at], q[2u * at + 1u]);
}
fn readValue(at: u32) -> Packed {
  if (HALF) { return Packed(v[at], vec4<u32>()); }
  return Packed(v[2u * at], v[2u * at + 1u]);
}
fn rowStart(strides: vec4<u32>, batch: u32, head: u32, token: u32) -> u32 {
  return (batch * strides.x + head * strides.y + token * strides.z - strides.w) / 8u;
}
fn tokenStride(strides: vec4<u32>) -> u32 {
  return u32(i32(strides.z) / 8);
}
fn power(e: i32) -> f32 {
  return select(bitcast<f32>(u32(min(e, 127) + 127) << 23u), 0.0, e < -126);
}
fn finiteBits(x: vec4<u32>) -> u32 {
  let positive = x & vec4<u32>(0x7fffffffu);
  let four = select(positive, vec4<u32>(), positive >= vec4<u32>(0x7f800000u));
  return max(max(four.x, four.y), max(four.z, four.w));
}
fn largestBits(x: Packed) -> u32 {
  if (HALF) {
    let four = max(abs(bitcast<vec4<f16>>(x.first.xy)), abs(bitcast<vec4<f16>>(x.first.zw)));
    let two = max(four.xy, four.zw);
    return bitcast<u32>(min(f32(max(two.x, two.y)), 65504.0));
  }
  return max(finiteBits(x.first), finiteBits(x.second));
}
fn binaryExponent(bits: u32) -> i32 {
  return i32(bits >> 23u) - 126;
}
fn keyScaleBound() -> i32 {
  return binaryExponent(bitcast<u32>(abs(shape.keyScale)));
}
fn shareLargest(step: u32, subgroup: u32, lane: u32, bits: vec2<u32>) {
  let most = vec2<u32>(subgroupMax(bits.x), subgroupMax(bits.y));
  if (lane == 0u) { largest[step % 2u][subgroup] = most; }
}
fn sharedBounds(step: u32) -> vec2<i32> {
  var bits = vec2<u32>();
  for (var i = 0u; i < SUBGROUPS; i++) { bits = max(bits, largest[step % 2u][i]); }
  return vec2<i32>(binaryExponent(bits.x), binaryExponent(bits.y));
}
fn exponentFor(bound: i32) -> i32 {
  return min(15 - bound, 100);
}
override ROW_TILES = HEAD / UNIT / SUBGROUPS;
override COLUMN_TILES = COLUMNS / UNIT;
override TILES = ROW_TILES * COLUMN_TILES;
override PART = VALUE / ACROSS;
override STATE_VECTORS = ROW_TILES * UNIT * COLUMNS / 8u;
override STATE_STEPS = (STATE_VECTORS + LANES - 1u) / LANES;
override BLOCK_STEPS = BLOCK / UNIT;
override KEY_LOADS = (BLOCK * HEAD / 8u + THREADS - 1u) / THREADS;
override VALUE_LOADS = (BLOCK * COLUMNS / 8u + THREADS - 1u) / THREADS;
struct Walk {
  keyAt: u32,
  keyStride: u32,
  valueAt: u32,
  valueStride: u32,
  count: u32,
}
fn loadBlock(walk: Walk, token: u32, thread: u32, keys: ptr<function, WalkKeys>, values: ptr<function, WalkValues>) {
  let last = walk.count - 1u;
  for (var i = 0u; i < KEY_LOADS; i++) {
    let at = i * THREADS + thread;
    let row = min(token + at / (HEAD / 8u), last);
    (*keys)[i] = readKey(walk.keyAt + row * walk.keyStride + at % (HEAD / 8u));
  }
  for (var i = 0u; i < VALUE_LOADS; i++) {
    let at = i * THREADS + thread;
    let row = min(token + at / (COLUMNS / 8u), last);
    (*values)[i] = readValue(walk.valueAt + row * walk.valueStride + at % (COLUMNS / 8u));
  }
}
fn storeState(sums: ptr<function, WalkSums>, index: u32, columnTile: u32, unit: i32, thread: u32, subgroup: u32, lane: u32) -> i32 {
  workgroupBarrier();
  for (var row = 0u; row < ROW_TILES; row++) {
    for (var column = 0u; column < COLUMN_TILES; column++) {
      subgroupMatrixStore<row_major>(
        &walkKeys[subgroup],
        (row * UNIT * COLUMNS + column * UNIT) / 4u,
        (*sums)[row * COLUMN_TILES + column],
        COLUMNS / 4u,
      );
    }
  }
  workgroupBarrier();
  var bits = 0u;
  for (var i = 0u; i < STATE_STEPS; i++) {
    let at = i * LANES + lane;
    if (STATE_VECTORS % LANES == 0u || at < STATE_VECTORS) {
      bits = max(bits, max(finiteBits(walkKeys[subgroup][2u * at]), finiteBits(walkKeys[subgroup][2u * at + 1u])));
    }
  }
  shareLargest(1u, subgroup, lane, vec2<u32>(bits, 0u));
  workgroupBarrier();
  let bound = sharedBounds(1u).x;
  let e = exponentFor(bound);
  let scale = power(e);
  let part = columnTile * COLUMNS / PART;
  let start = subgroup * ROW_TILES * UNIT * (PART / 8u) + columnTile * COLUMNS % PART / 8u;
  for (var i = 0u; i < STATE_STEPS; i++) {
    let at = i * LANES + lane;
    if (STATE_VECTORS % LANES == 0u || at < STATE_VECTORS) {
      let x = mat2x4<f32>(
        bitcast<vec4<f32>>(walkKeys[subgroup][2u * at]),
        bitcast<vec4<f32>>(walkKeys[subgroup][2u * at + 1u]),
      );
      states[index * ACROSS + part][start + at / (COLUMNS / 8u) * (PART / 8u) + at % (COLUMNS / 8u)] = halves(scale * x);
    }
  }
  if (thread == 0u) { exponents[index * (VALUE / COLUMNS) + columnTile] = unit + e; }
  return bound;
}
struct Place { columnTile: u32, localHead: u32, segmentIndex: u32 }
fn placeOf(workgroup: u32) -> Place {
  let tiles = VALUE / COLUMNS;
  return Place(workgroup % tiles, workgroup / tiles % shape.headCount, workgroup / tiles / shape.headCount);
}
fn walkSegment(
  sums: ptr<function, WalkSums>,
  place: Place,
  thread: u32,
  subgroup: u32,
  lane: u32,
) -> i32 {
  let segment = table[place.segmentIndex];
  let head = shape.firstHead + place.localHead;
  let count = segment.y;
  let decay = decays[head * DECAYS];
  let walk = Walk(
    rowStart(shape.key, segment.z, head / shape.keyGroup, segment.x),
    tokenStride(shape.key),
    rowStart(shape.value, segment.z, head, segment.x) + place.columnTile * (COLUMNS / 8u),
    tokenStride(shape.value),
    count,
  );
  var keys: WalkKeys;
  var values: WalkValues;
  if (count > 0u) { loadBlock(walk, 0u, thread, &keys, &values); }
  var unit = 0;
  var bound = 0.0;
  var rest = 0.0;
  for (var token = 0u; token < count; token += BLOCK) {
    if (!SUMS && token % CHUNK == 0u) {
      let index = (segment.w + token / CHUNK) * shape.headCount + place.localHead;
      bound = power(storeState(sums, index, place.columnTile, unit, thread, subgroup, lane));
    }
    let tokens = min(BLOCK, count - token);
    var keyExponent = 0;
    var ratio = 0;
    var blockUnit = 0;
    if (HALF) {
      workgroupBarrier();
    } else {
      var bits = vec2<u32>();
      for (var i = 0u; i < KEY_LOADS; i++) { bits.x = max(bits.x, largestBits(keys[i])); }
      for (var i = 0u; i < VALUE_LOADS; i++) { bits.y = max(bits.y, largestBits(values[i])); }
      shareLargest(0u, subgroup, lane, bits);
      workgroupBarrier();
      let bounds = sharedBounds(0u);
      keyExponent = exponentFor(bounds.x);
      let natural = keyExponent + exponentFor(bounds.y + keyScaleBound());
      blockUnit = min(min(natural, 100), unit + 80 - binaryExponent(bitcast<u32>(bound)));
      ratio = blockUnit - unit;
      unit = blockUnit;
      bound = bound * power(ratio) + power(37);
    }
    let keyFactor = power(keyExponent);
    for (var i = 0u; i < KEY_LOADS; i++) {
      let at = i * THREADS + thread;
      let row = at / (HEAD / 8u);
      if (BLOCK * HEAD / 8u % THREADS == 0u || row < BLOCK) {
        var x = keys[i].first;
        if (!HALF) { x = halves(keyFactor * unpacked(keys[i])); }
        let column = at % (HEAD / 8u);
        let width = HEAD / 8u / SUBGROUPS;
        walkKeys[column / width][row * WALK_KEY_STRIDE + column % width] = select(vec4<u32>(), x, row < tokens);
      }
    }
    for (var i = 0u; i < VALUE_LOADS; i++) {
      let at = i * THREADS + thread;
      let row = at / (COLUMNS / 8u);
      if (BLOCK * COLUMNS / 8u % THREADS == 0u || row < BLOCK) {
        let factor = shape.keyScale * exp2(f32(blockUnit - keyExponent) - decay * f32(tokens - 1u - row));
        let x = halves(factor * unpacked(values[i]));
        walkValues[row * WALK_VALUE_STRIDE + at % (COLUMNS / 8u)] = select(vec4<u32>(), x, row < tokens);
      }
    }
    loadBlock(walk, token + BLOCK, thread, &keys, &values);
    workgroupBarrier();
    var decayed = tokens;
    if (REVERSE && token == 0u) { decayed -= 1u; }
    let change = decays[head * DECAYS + 1u + decayed];
    var factor = change;
    if (change <= 0.0) {
      factor = 1.0 + (change + rest);
      rest = (change + rest) - (factor - 1.0);
    }
    factor *= power(ratio);
    for (var i = 0u; i < TILES; i++) {
      (*sums)[i] = subgroupMatrixScalarMultiply((*sums)[i], factor);
    }
    for (var inner = 0u; inner < BLOCK_STEPS; inner++) {
      var rights: WalkRights;
      for (var column = 0u; column < COLUMN_TILES; column++) {
        rights[column] = subgroupMatrixLoad<Right, row_major>(
          &walkValues,
          inner * UNIT * WALK_VALUE_STRIDE + column * (UNIT / 8u),
          WALK_VALUE_STRIDE,
        );
      }
      for (var row = 0u; row < ROW_TILES; row++) {
        let left = subgroupMatrixLoad<Left, col_major>(
          &walkKeys[subgroup],
          inner * UNIT * WALK_KEY_STRIDE + row * (UNIT / 8u),
          WALK_KEY_STRIDE,
        );
        for (var column = 0u; column < COLUMN_TILES; column++) {
          (*sums)[row * COLUMN_TILES + column] =
            subgroupMatrixMultiplyAccumulate(left, rights[column], (*sums)[row * COLUMN_TILES + column]);
        }
      }
    }
  }
  return unit;
}
@compute @workgroup_size(THREADS)
fn walkSegments(
  @builtin(workgroup_id) workgroup: vec3<u32>,
  @builtin(num_workgroups) workgroups: vec3<u32>,
  @builtin(local_invocation_index) thread: u32,
  @builtin(subgroup_id) subgroup: u32,
  @builtin(subgroup_invocation_id) lane: u32,
) {
  let id = folded(workgroup, workgroups);
  if (id >= shape.workgroups) { return; }
  let place = placeOf(id);
  let head = shape.firstHead + place.localHead;
  let index = place.segmentIndex * shape.headCount + place.localHead;
  let part = (subgroup * ROW_TILES * UNIT * VALUE + place.columnTile * COLUMNS) / 4u;
  var sums: WalkSums;
  if (!SUMS) {
    for (var row = 0u; row < ROW_TILES; row++) {
      for (var column = 0u; column < COLUMN_TILES; column++) {
        sums[row * COLUMN_TILES + column] = subgroupMatrixLoad<Sums, row_major>(
          &scratch[index],
          part + (row * UNIT * VALUE + column * UNIT) / 4u,
          VALUE / 4u,
        );
      }
    }
  }
  let unit = walkSegment(&sums, place, thread, subgroup, lane);
  var scale = power(-unit);
  if (REVERSE && table[place.segmentIndex].y > 0u) { scale *= exp2(-decays[head * DECAYS]); }
  if (!SUMS && place.segmentIndex < shape.segments - shape.sequences) { return; }
  for (var row = 0u; row < ROW_TILES; row++) {
    for (var column = 0u; column < COLUMN_TILES; column++) {
      let tile = subgroupMatrixScalarMultiply(sums[row * COLUMN_TILES + column], scale);
      let at = part + (row * UNIT * VALUE + column * UNIT) / 4u;
      if (SUMS) {
        subgroupMatrixStore<row_major>(&scratch[index], at, tile, VALUE / 4u);
      } else {
        let sequence = table[place.segmentIndex + shape.sequences].z;
        let end = sequence * shape.heads + head - shape.stateOrigin;
        subgroupMatrixStore<row_major>(&state[end], at, tile, VALUE / 4u);
      }
    }
  }
}
override QUERY_LOADS = (ROWS * HEAD / 8u + THREADS - 1u) / THREADS;
override ATTEND_KEY_LOADS = (KEYS * HEAD / 8u + THREADS - 1u) / THREADS;
override ATTEND_VALUE_LOADS = (KEYS * VALUE / 8u + THREADS - 1u) / THREADS;
override KEY_STRIPS = KEYS / UNIT;
override OUTPUTS = PART / UNIT;
override PART_STRIPS = KEY_STRIPS / ACROSS;
override ATTEND_TILES = HIGH * OUTPUTS;
override INNERS = HEAD / UNIT;
override MASK_VECTORS = UNIT * KEYS / ACROSS / 8u;
override MASK_STEPS = (MASK_VECTORS + LANES - 1u) / LANES;
override PASSES = PART / PASS;
override PASS_COLUMNS = PASS / UNIT;
override PASS_VECTORS = UNIT * PASS / 8u;
override PASS_STEPS = (PASS_VECTORS + LANES - 1u) / LANES;
override WIDE_COLUMNS = VALUE / COLUMNS;
fn loadKeys(walk: Walk, key: u32, thread: u32, keys: ptr<function, AttendKeys>, values: ptr<function, AttendValues>) {
  let last = walk.count - 1u;
  for (var i = 0u; i < ATTEND_KEY_LOADS; i++) {
    let at = i * THREADS + thread;
    (*keys)[i] = readKey(walk.keyAt + min(key + at / (HEAD / 8u), last) * walk.keyStride + at % (HEAD / 8u));
  }
  for (var i = 0u; i < ATTEND_VALUE_LOADS; i++) {
    let at = i * THREADS + thread;
    (*values)[i] = readValue(walk.valueAt + min(key + at / (VALUE / 8u), last) * walk.valueStride + at % (VALUE / 8u));
  }
}
fn shareKeys(step: u32, subgroup: u32, lane: u32, keys: ptr<function, AttendKeys>, values: ptr<function, AttendValues>) {
  var bits = vec2<u32>();
  for (var i = 0u; i < ATTEND_KEY_LOADS; i++) { bits.x = max(bits.x, largestBits((*keys)[i])); }
  if (!HALF) {
    for (var i = 0u; i < ATTEND_VALUE_LOADS; i++) { bits.y = max(bits.y, largestBits((*values)[i])); }
  }
  shareLargest(step, subgroup, lane, bits);
}
fn storeKeys(buffer: u32, key: u32, count: u32, bounds: vec2<i32>, thread: u32, keys: ptr<function, AttendKeys>, values: ptr<function, AttendValues>) {
  let start = buffer * KEY_STRIPS;
  for (var i = 0u; i < ATTEND_KEY_LOADS; i++) {
    let at = i * THREADS + thread;
    let row = at / (HEAD / 8u);
    if (KEYS * HEAD / 8u % THREADS == 0u || row < KEYS) {
      var x = (*keys)[i].first;
      if (!HALF) { x = halves(power(exponentFor(bounds.x)) * unpacked((*keys)[i])); }
      strips[start + row / UNIT][row % UNIT * STRIDE + at % (HEAD / 8u)] = select(vec4<u32>(), x, key + row < count);
    }
  }
  for (var i = 0u; i < ATTEND_VALUE_LOADS; i++) {
    let at = i * THREADS + thread;
    let row = at / (VALUE / 8u);
    if (KEYS * VALUE / 8u % THREADS == 0u || row < KEYS) {
      var x = (*values)[i].first;
      if (!HALF) { x = halves(power(exponentFor(bounds.y)) * unpacked((*values)[i])); }
      let column = at % (VALUE / 8u);
      valueStrips[(start + row / UNIT) * ACROSS + column / (PART / 8u)][row % UNIT * VALUE_STRIDE + column % (PART / 8u)] =
        select(vec4<u32>(), x, key + row < count);
    }
  }
}
fn decayed(e: i32, decay: f32, n: u32) -> f32 {
  return exp2(max(f32(e) - decay * f32(n), -200.0));
}
fn maskedProducts(products: vec4<u32>, e: i32, decay: f32, n: vec4<i32>) -> vec4<f32> {
  let factors = shape.keyScale * exp2(max(f32(e) - decay * vec4<f32>(n), vec4<f32>(-200.0)));
  return select(vec4<f32>(), factors * bitcast<vec4<f32>>(products), n >= vec4<i32>());
}
@compute @workgroup_size(THREADS)
fn attendChunks(
  @builtin(workgroup_id) workgroup: vec3<u32>,
  @builtin(num_workgroups) workgroups: vec3<u32>,
  @builtin(local_invocation_index) thread: u32,
  @builtin(subgroup_id) subgroup: u32,
  @builtin(subgroup_invocation_id) lane: u32,
) {
  var id = folded(workgroup, workgroups);
  if (id >= shape.workgroups) { return; }
  let first = id % (CHUNK / ROWS) * ROWS;
  id /= CHUNK / ROWS;
  let localHead = id % shape.headCount;
  let head = shape.firstHead + localHead;
  let chunkIndex = id / shape.headCount;
  let chunk = table[shape.segments + shape.sequences + chunkIndex];
  if (first >= chunk.y) { return; }
  let count = min(first + ROWS, chunk.y);
  let decay = decays[head * DECAYS];
  let valueStart = rowStart(shape.value, chunk.z, head, chunk.x);
  let walk = Walk(
    rowStart(shape.key, chunk.z, head / shape.keyGroup, chunk.x),
    tokenStride(shape.key),
    valueStart,
    tokenStride(shape.value),
    count,
  );
  let firstStrip = subgroup / ACROSS * HIGH;
  let across = subgroup % ACROSS;
  var queries: AttendQueries;
  let queryAt = rowStart(shape.query, chunk.z, head / shape.queryGroup, chunk.x);
  var bits = 0u;
  for (var i = 0u; i < QUERY_LOADS; i++) {
    let at = i * THREADS + thread;
    let row = min(first + at / (HEAD / 8u), count - 1u);
    queries[i] = readQuery(queryAt + row * tokenStride(shape.query) + at % (HEAD / 8u));
    bits = max(bits, largestBits(queries[i]));
  }
  var keys: AttendKeys;
  var values: AttendValues;
  loadKeys(walk, 0u, thread, &keys, &values);
  shareLargest(0u, subgroup, lane, vec2<u32>(bits, 0u));
  workgroupBarrier();
  let queryBound = sharedBounds(0u).x;
  let decayedExponent = exponentFor(queryBound);
  let ahead = select(1u, 0u, REVERSE && chunk.w == 1u);
  for (var i = 0u; i < QUERY_LOADS; i++) {
    let at = i * THREADS + thread;
    let row = at / (HEAD / 8u);
    if (ROWS * HEAD / 8u % THREADS == 0u || row < ROWS) {
      strips[row / UNIT][row % UNIT * STRIDE + at % (HEAD / 8u)] = halves(decayed(decayedExponent, decay, first + row + ahead) * unpacked(queries[i]));
    }
  }
  workgroupBarrier();
  var sums: AttendSums;
  let stateIndex = chunkIndex * shape.headCount + localHead;
  for (var inner = 0u; inner < INNERS; inner++) {
    var lefts: AttendRows;
    for (var row = 0u; row < HIGH; row++) {
      lefts[row] = subgroupMatrixLoad<Left, row_major>(&strips[firstStrip + row], inner * (UNIT / 8u), STRIDE);
    }
    for (var column = 0u; column < OUTPUTS; column++) {
      let right = subgroupMatrixLoad<Right, row_major>(
        &chunkStates[stateIndex * ACROSS + across],
        (inner * UNIT * PART + column * UNIT) / 8u,
        PART / 8u,
      );
      for (var row = 0u; row < HIGH; row++) {
        sums[row * OUTPUTS + column] =
          subgroupMatrixMultiplyAccumulate(lefts[row], right, sums[row * OUTPUTS + column]);
      }
    }
  }
  let exponentStart = stateIndex * (VALUE / COLUMNS);
  var unit = chunkExponents[exponentStart];
  for (var i = 1u; i < WIDE_COLUMNS; i++) { unit = min(unit, chunkExponents[exponentStart + i]); }
  for (var column = 0u; column < OUTPUTS; column++) {
    let e = chunkExponents[exponentStart + (across * PART + column * UNIT) / COLUMNS];
    for (var row = 0u; row < HIGH; row++) {
      sums[row * OUTPUTS + column] = subgroupMatrixScalarMultiply(sums[row * OUTPUTS + column], power(unit - e));
    }
  }
  unit += decayedExponent;
  var least = unit;
  workgroupBarrier();
  var queryExponent = 0;
  if (!HALF) { queryExponent = decayedExponent; }
  for (var i = 0u; i < QUERY_LOADS; i++) {
    let at = i * THREADS + thread;
    let row = at / (HEAD / 8u);
    if (ROWS * HEAD / 8u % THREADS == 0u || row < ROWS) {
      var x = queries[i].first;
      if (!HALF) { x = halves(power(queryExponent) * unpacked(queries[i])); }
      strips[row / UNIT][row % UNIT * STRIDE + at % (HEAD / 8u)] = x;
    }
  }
  shareKeys(0u, subgroup, lane, &keys, &values);
  workgroupBarrier();
  var lefts: AttendLefts;
  for (var row = 0u; row < HIGH; row++) {
    for (var inner = 0u; inner < INNERS; inner++) {
      lefts[row * INNERS + inner] =
        subgroupMatrixLoad<Left, row_major>(&strips[firstStrip + row], inner * (UNIT / 8u), STRIDE);
    }
  }
  workgroupBarrier();
  let lastRow = first + (firstStrip + HIGH) * UNIT - 1u;
  var bounds = sharedBounds(0u);
  storeKeys(0u, 0u, count, bounds, thread, &keys, &values);
  loadKeys(walk, KEYS, thread, &keys, &values);
  workgroupBarrier();
  for (var key = 0u; key < count; key += KEYS) {
    let step = key / KEYS;
    let start = step % BUFFERS * KEY_STRIPS;
    for (var column = 0u; column < PART_STRIPS; column++) {
      let strip = across * PART_STRIPS + column;
      if (key + strip * UNIT <= lastRow) {
        var parts: AttendProducts;
        for (var row = 0u; row < HIGH; row++) { parts[row] = Sums(); }
        for (var inner = 0u; inner < INNERS; inner++) {
          let right = subgroupMatrixLoad<Right, col_major>(&strips[start + strip], inner * (UNIT / 8u), STRIDE);
          for (var row = 0u; row < HIGH; row++) {
            parts[row] = subgroupMatrixMultiplyAccumulate(lefts[row * INNERS + inner], right, parts[row]);
          }
        }
        for (var row = 0u; row < HIGH; row++) {
          subgroupMatrixStore<row_major>(
            &products[(firstStrip + row) * ACROSS + across],
            column * (UNIT / 4u),
            parts[row],
            PRODUCT_STRIDE,
          );
        }
      }
    }
    shareKeys(step + 1u, subgroup, lane, &keys, &values);
    workgroupBarrier();
    let productBound = queryBound + bounds.x + keyScaleBound() + i32(firstLeadingBit(HEAD - 1u) + 1u);
    var exponent = 15 - productBound;
    var valueExponent = 0;
    if (!HALF) { valueExponent = exponentFor(bounds.y); }
    let before = unit;
    let natural = min(exponent, 200) + valueExponent;
    least = min(least, natural);
    unit = min(natural, least + 80);
    exponent = unit - valueExponent;
    if (!HALF) { exponent -= queryExponent + exponentFor(bounds.x); }
    for (var high = 0u; high < HIGH; high++) {
      let strip = firstStrip + high;
      for (var i = 0u; i < MASK_STEPS; i++) {
        let at = i * LANES + lane;
        if (MASK_VECTORS % LANES == 0u || at < MASK_VECTORS) {
          let row = at / (KEYS / ACROSS / 8u);
          let column = at % (KEYS / ACROSS / 8u);
          let place = row * PRODUCT_STRIDE + 2u * column;
          let maskColumn = across * (KEYS / ACROSS / 8u) + column;
          let n = vec4<i32>(i32(first + strip * UNIT + row) - i32(key + 8u * maskColumn)) - vec4<i32>(0, 1, 2, 3);
          masked[strip][row * MASKED_STRIDE + maskColumn] = halves(mat2x4<f32>(
            maskedProducts(products[strip * ACROSS + across][place], exponent, decay, n),
            maskedProducts(products[strip * ACROSS + across][place + 1u], exponent, decay, n - vec4<i32>(4)),
          ));
        }
      }
    }
    let next = key + KEYS;
    if (BUFFERS == 2u && next < count) {
      bounds = sharedBounds(step + 1u);
      storeKeys((step + 1u) % BUFFERS, next, count, bounds, thread, &keys, &values);
      loadKeys(walk, next + KEYS, thread, &keys, &values);
    }
    workgroupBarrier();
    let ratio = power(unit - before);
    for (var i = 0u; i < ATTEND_TILES; i++) { sums[i] = subgroupMatrixScalarMultiply(sums[i], ratio); }
    for (var inner = 0u; inner < KEY_STRIPS; inner++) {
      if (key + inner * UNIT <= lastRow) {
        var parts: AttendRows;
        for (var row = 0u; row < HIGH; row++) {
          parts[row] =
            subgroupMatrixLoad<Left, row_major>(&masked[firstStrip + row], inner * (UNIT / 8u), MASKED_STRIDE);
        }
        for (var column = 0u; column < OUTPUTS; column++) {
          let right = subgroupMatrixLoad<Right, row_major>(
            &valueStrips[(start + inner) * ACROSS + across],
            column * (UNIT / 8u),
            VALUE_STRIDE,
          );
          for (var row = 0u; row < HIGH; row++) {
            sums[row * OUTPUTS + column] =
              subgroupMatrixMultiplyAccumulate(parts[row], right, sums[row * OUTPUTS + column]);
          }
        }
      }
    }
    if (BUFFERS == 1u && next < count) {
      workgroupBarrier();
      bounds = sharedBounds(step + 1u);
      storeKeys(0u, next, count, bounds, thread, &keys, &values);
      loadKeys(walk, next + KEYS, thread, &keys, &values);
      workgroupBarrier();
    }
  }
  let half = clamp(-unit, -250, 250) / 2;
  let factor = power(half) * shape.queryScale;
  let other = power(clamp(-unit, -250, 250) - half);
  for (var high = 0u; high < HIGH; high++) {
    for (var part = 0u; part < PASSES; part++) {
      workgroupBarrier();
      for (var column = 0u; column < PASS_COLUMNS; column++) {
        subgroupMatrixStore<row_major>(
          &strips[subgroup],
          column * (UNIT / 4u),
          subgroupMatrixScalarMultiply(sums[high * OUTPUTS + part * PASS_COLUMNS + column], factor),
          PASS / 4u,
        );
      }
      workgroupBarrier();
      for (var i = 0u; i < PASS_STEPS; i++) {
        let at = i * LANES + lane;
        let row = first + (firstStrip + high) * UNIT + at / (PASS / 8u);
        let x = other * mat2x4<f32>(
          bitcast<vec4<f32>>(strips[subgroup][2u * at]),
          bitcast<vec4<f32>>(strips[subgroup][2u * at + 1u]),
        );
        let to = valueStart + row * walk.valueStride + (across * PART + part * PASS) / 8u + at % (PASS / 8u);
        if ((PASS_VECTORS % LANES == 0u || at < PASS_VECTORS) && row < count) {
          if (OUTPUT_HALF) {
            output[to] = halves(x);
          } else {
            output[2u * to] = bitcast<vec4<u32>>(x[0]);
            output[2u * to + 1u] = bitcast<vec4<u32>>(x[1]);
          }
        }
      }
    }
  }
}
`;

// gpu/units/product.wgsl
const productSource = `const EDGE = 32u;
const LINE = 5u;
const STRIP = 160;
override M: u32;
override N: u32;
override K: u32;
override DOWN: u32;
override ACROSS: u32;
override ROWS: u32;
override COLUMNS: u32;
override BUFFERS: u32;
override THREADS: u32;
override LEFT_BY_TERMS: bool;
override RIGHT_BY_TERMS: bool;
override LEFT_STRIPS = DOWN * ROWS;
override RIGHT_STRIPS = ACROSS * COLUMNS;
override LEFT_LOADS = LEFT_STRIPS * 128u / THREADS;
override RIGHT_LOADS = RIGHT_STRIPS * 128u / THREADS;
override LEFTS = ROWS * EDGE / M;
override RIGHTS = COLUMNS * EDGE / N;
const BIAS = 1u;
const RESIDUAL = 2u;
const RESULT = 4u;
struct Parameters {
  rows: u32,
  columns: u32,
  down: u32,
  across: u32,
  band: u32,
  steps: u32,
  allSteps: u32,
  leftStride: u32,
  rightStride: u32,
  workgroups: u32,
  added: u32,
  leftScales: u32,
  rightScales: u32,
}
@group(0) @binding(0) var<storage, read> left: array<vec4<u32>>;
@group(0) @binding(1) var<storage, read> right: array<vec4<u32>>;
@group(0) @binding(2) var<storage, read> leftExponents: array<i32>;
@group(0) @binding(3) var<storage, read> rightExponents: array<vec4<i32>>;
@group(0) @binding(4) var<storage, read> bias: array<vec4<Bias>>;
@group(0) @binding(5) var<storage, read> residual: array<vec4<Residual>>;
@group(0) @binding(6) var<storage, read_write> result: array<vec4<Result>>;
@group(0) @binding(15) var<uniform> parameters: Parameters;
override STRIPS = max(BUFFERS * (LEFT_STRIPS + RIGHT_STRIPS), DOWN * ACROSS);
var<workgroup> strips: array<array<vec4<u32>, STRIP>, STRIPS>;
fn place(i: u32, first: u32, stride: u32, byTerms: bool) -> u32 {
  let other = i / 128u * EDGE + first;
  let line = i % 128u / 4u;
  return select((other + line) * stride + i % 4u, line * stride + other / 8u + i % 4u, byTerms);
}
fn powers(exponents: vec4<i32>) -> vec4<f32> {
  return bitcast<vec4<f32>>(vec4<u32>(exponents + vec4<i32>(127)) << vec4<u32>(23u));
}
fn write(first: u32, row: u32, column: u32, product: vec4<f32>) {
  let at = row * parameters.columns + column;
  let leftFactor = powers(vec4<i32>(-leftExponents[row * parameters.leftScales]));
  let rightFactor = powers(-rightExponents[column * parameters.rightScales]);
  var y = product * leftFactor * rightFactor;
  if ((parameters.added & BIAS) != 0u) { y += vec4<f32>(bias[column]); }
  if ((parameters.added & RESIDUAL) != 0u) { y += vec4<f32>(residual[at]); }
  if ((parameters.added & RESULT) != 0u) { y += vec4<f32>(result[first + at]); }
  result[first + at] = vec4<Result>(y);
}
@compute @workgroup_size(THREADS)
fn multiply(
  @builtin(workgroup_id) workgroup: vec3<u32>,
  @builtin(num_workgroups) workgroups: vec3<u32>,
  @builtin(local_invocation_index) thread: u32,
  @builtin(subgroup_id) subgroup: u32,
) {
  let id = folded(workgroup, workgroups);
  if (id >= parameters.workgroups) { return; }
  let tiles = parameters.down * parameters.across;
  let range = id / tiles;
  let tile = id % tiles;
  let bandTop = tile / (parameters.band * parameters.across) * parameters.band;
  let bandRows = min(parameters.band, parameters.down - bandTop);
  let inBand = tile - bandTop * parameters.across;
  let firstRow = (bandTop + inBand % bandRows) * DOWN * ROWS * EDGE;
  let firstColumn = inBand / bandRows * ACROSS * COLUMNS * EDGE;
  let leftStrip = subgroup / ACROSS * ROWS;
  let rightStrip = LEFT_STRIPS + subgroup % ACROSS * COLUMNS;
  let firstStep = range * parameters.steps;
  let steps = min(parameters.steps, parameters.allSteps - firstStep);
  let leftStep = select(EDGE / 8u, EDGE * parameters.leftStride, LEFT_BY_TERMS);
  let rightStep = select(EDGE / 8u, EDGE * parameters.rightStride, RIGHT_BY_TERMS);
  let toStrip = thread / 128u;
  let toLine = thread % 128u / 4u * LINE + thread % 4u;
  let leftAt0 = place(0u * THREADS + thread, firstRow, parameters.leftStride, LEFT_BY_TERMS) + firstStep * leftStep;
  let rightAt0 = place(0u * THREADS + thread, firstColumn, parameters.rightStride, RIGHT_BY_TERMS) + firstStep * rightStep;
  var left0: vec4<u32>;
  var right0: vec4<u32>;
  if (0u < LEFT_LOADS) { left0 = left[leftAt0]; }
  if (0u < RIGHT_LOADS) { right0 = right[rightAt0]; }
  let leftAt1 = place(1u * THREADS + thread, firstRow, parameters.leftStride, LEFT_BY_TERMS) + firstStep * leftStep;
  let rightAt1 = place(1u * THREADS + thread, firstColumn, parameters.rightStride, RIGHT_BY_TERMS) + firstStep * rightStep;
  var left1: vec4<u32>;
  var right1: vec4<u32>;
  if (1u < LEFT_LOADS) { left1 = left[leftAt1]; }
  if (1u < RIGHT_LOADS) { right1 = right[rightAt1]; }
  let leftAt2 = place(2u * THREADS + thread, firstRow, parameters.leftStride, LEFT_BY_TERMS) + firstStep * leftStep;
  let rightAt2 = place(2u * THREADS + thread, firstColumn, parameters.rightStride, RIGHT_BY_TERMS) + firstStep * rightStep;
  var left2: vec4<u32>;
  var right2: vec4<u32>;
  if (2u < LEFT_LOADS) { left2 = left[leftAt2]; }
  if (2u < RIGHT_LOADS) { right2 = right[rightAt2]; }
  let leftAt3 = place(3u * THREADS + thread, firstRow, parameters.leftStride, LEFT_BY_TERMS) + firstStep * leftStep;
  let rightAt3 = place(3u * THREADS + thread, firstColumn, parameters.rightStride, RIGHT_BY_TERMS) + firstStep * rightStep;
  var left3: vec4<u32>;
  var right3: vec4<u32>;
  if (3u < LEFT_LOADS) { left3 = left[leftAt3]; }
  if (3u < RIGHT_LOADS) { right3 = right[rightAt3]; }
  let leftAt4 = place(4u * THREADS + thread, firstRow, parameters.leftStride, LEFT_BY_TERMS) + firstStep * leftStep;
  let rightAt4 = place(4u * THREADS + thread, firstColumn, parameters.rightStride, RIGHT_BY_TERMS) + firstStep * rightStep;
  var left4: vec4<u32>;
  var right4: vec4<u32>;
  if (4u < LEFT_LOADS) { left4 = left[leftAt4]; }
  if (4u < RIGHT_LOADS) { right4 = right[rightAt4]; }
  let leftAt5 = place(5u * THREADS + thread, firstRow, parameters.leftStride, LEFT_BY_TERMS) + firstStep * leftStep;
  let rightAt5 = place(5u * THREADS + thread, firstColumn, parameters.rightStride, RIGHT_BY_TERMS) + firstStep * rightStep;
  var left5: vec4<u32>;
  var right5: vec4<u32>;
  if (5u < LEFT_LOADS) { left5 = left[leftAt5]; }
  if (5u < RIGHT_LOADS) { right5 = right[rightAt5]; }
  let leftAt6 = place(6u * THREADS + thread, firstRow, parameters.leftStride, LEFT_BY_TERMS) + firstStep * leftStep;
  let rightAt6 = place(6u * THREADS + thread, firstColumn, parameters.rightStride, RIGHT_BY_TERMS) + firstStep * rightStep;
  var left6: vec4<u32>;
  var right6: vec4<u32>;
  if (6u < LEFT_LOADS) { left6 = left[leftAt6]; }
  if (6u < RIGHT_LOADS) { right6 = right[rightAt6]; }
  let leftAt7 = place(7u * THREADS + thread, firstRow, parameters.leftStride, LEFT_BY_TERMS) + firstStep * leftStep;
  let rightAt7 = place(7u * THREADS + thread, firstColumn, parameters.rightStride, RIGHT_BY_TERMS) + firstStep * rightStep;
  var left7: vec4<u32>;
  var right7: vec4<u32>;
  if (7u < LEFT_LOADS) { left7 = left[leftAt7]; }
  if (7u < RIGHT_LOADS) { right7 = right[rightAt7]; }
  var sum00: Accumulator;
  var sum01: Accumulator;
  var sum02: Accumulator;
  var sum03: Accumulator;
  var sum10: Accumulator;
  var sum11: Accumulator;
  var sum12: Accumulator;
  var sum13: Accumulator;
  var sum20: Accumulator;
  var sum21: Accumulator;
  var sum22: Accumulator;
  var sum23: Accumulator;
  var sum30: Accumulator;
  var sum31: Accumulator;
  var sum32: Accumulator;
  var sum33: Accumulator;
  for (var step = 0u; step < steps; step++) {
    let buffer = step % BUFFERS * (LEFT_STRIPS + RIGHT_STRIPS);
    if (BUFFERS == 1u && step > 0u) { workgroupBarrier(); }
    if (0u < LEFT_LOADS) { strips[buffer + 0u * THREADS / 128u + toStrip][0u * THREADS % 128u / 4u * LINE + toLine] = left0; }
    if (0u < RIGHT_LOADS) { strips[buffer + LEFT_STRIPS + 0u * THREADS / 128u + toStrip][0u * THREADS % 128u / 4u * LINE + toLine] = right0; }
    if (1u < LEFT_LOADS) { strips[buffer + 1u * THREADS / 128u + toStrip][1u * THREADS % 128u / 4u * LINE + toLine] = left1; }
    if (1u < RIGHT_LOADS) { strips[buffer + LEFT_STRIPS + 1u * THREADS / 128u + toStrip][1u * THREADS % 128u / 4u * LINE + toLine] = right1; }
    if (2u < LEFT_LOADS) { strips[buffer + 2u * THREADS / 128u + toStrip][2u * THREADS % 128u / 4u * LINE + toLine] = left2; }
    if (2u < RIGHT_LOADS) { strips[buffer + LEFT_STRIPS + 2u * THREADS / 128u + toStrip][2u * THREADS % 128u / 4u * LINE + toLine] = right2; }
    if (3u < LEFT_LOADS) { strips[buffer + 3u * THREADS / 128u + toStrip][3u * THREADS % 128u / 4u * LINE + toLine] = left3; }
    if (3u < RIGHT_LOADS) { strips[buffer + LEFT_STRIPS + 3u * THREADS / 128u + toStrip][3u * THREADS % 128u / 4u * LINE + toLine] = right3; }
    if (4u < LEFT_LOADS) { strips[buffer + 4u * THREADS / 128u + toStrip][4u * THREADS % 128u / 4u * LINE + toLine] = left4; }
    if (4u < RIGHT_LOADS) { strips[buffer + LEFT_STRIPS + 4u * THREADS / 128u + toStrip][4u * THREADS % 128u / 4u * LINE + toLine] = right4; }
    if (5u < LEFT_LOADS) { strips[buffer + 5u * THREADS / 128u + toStrip][5u * THREADS % 128u / 4u * LINE + toLine] = left5; }
    if (5u < RIGHT_LOADS) { strips[buffer + LEFT_STRIPS + 5u * THREADS / 128u + toStrip][5u * THREADS % 128u / 4u * LINE + toLine] = right5; }
    if (6u < LEFT_LOADS) { strips[buffer + 6u * THREADS / 128u + toStrip][6u * THREADS % 128u / 4u * LINE + toLine] = left6; }
    if (6u < RIGHT_LOADS) { strips[buffer + LEFT_STRIPS + 6u * THREADS / 128u + toStrip][6u * THREADS % 128u / 4u * LINE + toLine] = right6; }
    if (7u < LEFT_LOADS) { strips[buffer + 7u * THREADS / 128u + toStrip][7u * THREADS % 128u / 4u * LINE + toLine] = left7; }
    if (7u < RIGHT_LOADS) { strips[buffer + LEFT_STRIPS + 7u * THREADS / 128u + toStrip][7u * THREADS % 128u / 4u * LINE + toLine] = right7; }
    workgroupBarrier();
    let next = min(step + 1u, steps - 1u);
    if (0u < LEFT_LOADS) { left0 = left[leftAt0 + next * leftStep]; }
    if (0u < RIGHT_LOADS) { right0 = right[rightAt0 + next * rightStep]; }
    if (1u < LEFT_LOADS) { left1 = left[leftAt1 + next * leftStep]; }
    if (1u < RIGHT_LOADS) { right1 = right[rightAt1 + next * rightStep]; }
    if (2u < LEFT_LOADS) { left2 = left[leftAt2 + next * leftStep]; }
    if (2u < RIGHT_LOADS) { right2 = right[rightAt2 + next * rightStep]; }
    if (3u < LEFT_LOADS) { left3 = left[leftAt3 + next * leftStep]; }
    if (3u < RIGHT_LOADS) { right3 = right[rightAt3 + next * rightStep]; }
    if (4u < LEFT_LOADS) { left4 = left[leftAt4 + next * leftStep]; }
    if (4u < RIGHT_LOADS) { right4 = right[rightAt4 + next * rightStep]; }
    if (5u < LEFT_LOADS) { left5 = left[leftAt5 + next * leftStep]; }
    if (5u < RIGHT_LOADS) { right5 = right[rightAt5 + next * rightStep]; }
    if (6u < LEFT_LOADS) { left6 = left[leftAt6 + next * leftStep]; }
    if (6u < RIGHT_LOADS) { right6 = right[rightAt6 + next * rightStep]; }
    if (7u < LEFT_LOADS) { left7 = left[leftAt7 + next * leftStep]; }
    if (7u < RIGHT_LOADS) { right7 = right[rightAt7 + next * rightStep]; }
    for (var half = 0u; half < EDGE / (2u * K); half++) {
      let term0 = (2u * half + 0u) * K;
      var a00: Left;
      if (0u < LEFTS) {
        let strip = &strips[buffer + leftStrip + 0u * M / EDGE];
        if (LEFT_BY_TERMS) {
          a00 = subgroupMatrixLoad<Left, col_major>(strip, term0 * LINE + 0u * M % EDGE / 8u, LINE);
        } else {
          a00 = subgroupMatrixLoad<Left, row_major>(strip, 0u * M % EDGE * LINE + term0 / 8u, LINE);
        }
      }
      var a01: Left;
      if (1u < LEFTS) {
        let strip = &strips[buffer + leftStrip + 1u * M / EDGE];
        if (LEFT_BY_TERMS) {
          a01 = subgroupMatrixLoad<Left, col_major>(strip, term0 * LINE + 1u * M % EDGE / 8u, LINE);
        } else {
          a01 = subgroupMatrixLoad<Left, row_major>(strip, 1u * M % EDGE * LINE + term0 / 8u, LINE);
        }
      }
      var a02: Left;
      if (2u < LEFTS) {
        let strip = &strips[buffer + leftStrip + 2u * M / EDGE];
        if (LEFT_BY_TERMS) {
          a02 = subgroupMatrixLoad<Left, col_major>(strip, term0 * LINE + 2u * M % EDGE / 8u, LINE);
        } else {
          a02 = subgroupMatrixLoad<Left, row_major>(strip, 2u * M % EDGE * LINE + term0 / 8u, LINE);
        }
      }
      var a03: Left;
      if (3u < LEFTS) {
        let strip = &strips[buffer + leftStrip + 3u * M / EDGE];
        if (LEFT_BY_TERMS) {
          a03 = subgroupMatrixLoad<Left, col_major>(strip, term0 * LINE + 3u * M % EDGE / 8u, LINE);
        } else {
          a03 = subgroupMatrixLoad<Left, row_major>(strip, 3u * M % EDGE * LINE + term0 / 8u, LINE);
        }
      }
      if (0u < RIGHTS) {
        let strip = &strips[buffer + rightStrip + 0u * N / EDGE];
        var b: Right;
        if (RIGHT_BY_TERMS) {
          b = subgroupMatrixLoad<Right, row_major>(strip, term0 * LINE + 0u * N % EDGE / 8u, LINE);
        } else {
          b = subgroupMatrixLoad<Right, col_major>(strip, 0u * N % EDGE * LINE + term0 / 8u, LINE);
        }
        if (0u < LEFTS) { sum00 = subgroupMatrixMultiplyAccumulate(a00, b, sum00); }
        if (1u < LEFTS) { sum10 = subgroupMatrixMultiplyAccumulate(a01, b, sum10); }
        if (2u < LEFTS) { sum20 = subgroupMatrixMultiplyAccumulate(a02, b, sum20); }
        if (3u < LEFTS) { sum30 = subgroupMatrixMultiplyAccumulate(a03, b, sum30); }
      }
      if (1u < RIGHTS) {
        let strip = &strips[buffer + rightStrip + 1u * N / EDGE];
        var b: Right;
        if (RIGHT_BY_TERMS) {
          b = subgroupMatrixLoad<Right, row_major>(strip, term0 * LINE + 1u * N % EDGE / 8u, LINE);
        } else {
          b = subgroupMatrixLoad<Right, col_major>(strip, 1u * N % EDGE * LINE + term0 / 8u, LINE);
        }
        if (0u < LEFTS) { sum01 = subgroupMatrixMultiplyAccumulate(a00, b, sum01); }
        if (1u < LEFTS) { sum11 = subgroupMatrixMultiplyAccumulate(a01, b, sum11); }
        if (2u < LEFTS) { sum21 = subgroupMatrixMultiplyAccumulate(a02, b, sum21); }
        if (3u < LEFTS) { sum31 = subgroupMatrixMultiplyAccumulate(a03, b, sum31); }
      }
      if (2u < RIGHTS) {
        let strip = &strips[buffer + rightStrip + 2u * N / EDGE];
        var b: Right;
        if (RIGHT_BY_TERMS) {
          b = subgroupMatrixLoad<Right, row_major>(strip, term0 * LINE + 2u * N % EDGE / 8u, LINE);
        } else {
          b = subgroupMatrixLoad<Right, col_major>(strip, 2u * N % EDGE * LINE + term0 / 8u, LINE);
        }
        if (0u < LEFTS) { sum02 = subgroupMatrixMultiplyAccumulate(a00, b, sum02); }
        if (1u < LEFTS) { sum12 = subgroupMatrixMultiplyAccumulate(a01, b, sum12); }
        if (2u < LEFTS) { sum22 = subgroupMatrixMultiplyAccumulate(a02, b, sum22); }
        if (3u < LEFTS) { sum32 = subgroupMatrixMultiplyAccumulate(a03, b, sum32); }
      }
      if (3u < RIGHTS) {
        let strip = &strips[buffer + rightStrip + 3u * N / EDGE];
        var b: Right;
        if (RIGHT_BY_TERMS) {
          b = subgroupMatrixLoad<Right, row_major>(strip, term0 * LINE + 3u * N % EDGE / 8u, LINE);
        } else {
          b = subgroupMatrixLoad<Right, col_major>(strip, 3u * N % EDGE * LINE + term0 / 8u, LINE);
        }
        if (0u < LEFTS) { sum03 = subgroupMatrixMultiplyAccumulate(a00, b, sum03); }
        if (1u < LEFTS) { sum13 = subgroupMatrixMultiplyAccumulate(a01, b, sum13); }
        if (2u < LEFTS) { sum23 = subgroupMatrixMultiplyAccumulate(a02, b, sum23); }
        if (3u < LEFTS) { sum33 = subgroupMatrixMultiplyAccumulate(a03, b, sum33); }
      }
      let term1 = (2u * half + 1u) * K;
      var a10: Left;
      if (0u < LEFTS) {
        let strip = &strips[buffer + leftStrip + 0u * M / EDGE];
        if (LEFT_BY_TERMS) {
          a10 = subgroupMatrixLoad<Left, col_major>(strip, term1 * LINE + 0u * M % EDGE / 8u, LINE);
        } else {
          a10 = subgroupMatrixLoad<Left, row_major>(strip, 0u * M % EDGE * LINE + term1 / 8u, LINE);
        }
      }
      var a11: Left;
      if (1u < LEFTS) {
        let strip = &strips[buffer + leftStrip + 1u * M / EDGE];
        if (LEFT_BY_TERMS) {
          a11 = subgroupMatrixLoad<Left, col_major>(strip, term1 * LINE + 1u * M % EDGE / 8u, LINE);
        } else {
          a11 = subgroupMatrixLoad<Left, row_major>(strip, 1u * M % EDGE * LINE + term1 / 8u, LINE);
        }
      }
      var a12: Left;
      if (2u < LEFTS) {
        let strip = &strips[buffer + leftStrip + 2u * M / EDGE];
        if (LEFT_BY_TERMS) {
          a12 = subgroupMatrixLoad<Left, col_major>(strip, term1 * LINE + 2u * M % EDGE / 8u, LINE);
        } else {
          a12 = subgroupMatrixLoad<Left, row_major>(strip, 2u * M % EDGE * LINE + term1 / 8u, LINE);
        }
      }
      var a13: Left;
      if (3u < LEFTS) {
        let strip = &strips[buffer + leftStrip + 3u * M / EDGE];
        if (LEFT_BY_TERMS) {
          a13 = subgroupMatrixLoad<Left, col_major>(strip, term1 * LINE + 3u * M % EDGE / 8u, LINE);
        } else {
          a13 = subgroupMatrixLoad<Left, row_major>(strip, 3u * M % EDGE * LINE + term1 / 8u, LINE);
        }
      }
      if (0u < RIGHTS) {
        let strip = &strips[buffer + rightStrip + 0u * N / EDGE];
        var b: Right;
        if (RIGHT_BY_TERMS) {
          b = subgroupMatrixLoad<Right, row_major>(strip, term1 * LINE + 0u * N % EDGE / 8u, LINE);
        } else {
          b = subgroupMatrixLoad<Right, col_major>(strip, 0u * N % EDGE * LINE + term1 / 8u, LINE);
        }
        if (0u < LEFTS) { sum00 = subgroupMatrixMultiplyAccumulate(a10, b, sum00); }
        if (1u < LEFTS) { sum10 = subgroupMatrixMultiplyAccumulate(a11, b, sum10); }
        if (2u < LEFTS) { sum20 = subgroupMatrixMultiplyAccumulate(a12, b, sum20); }
        if (3u < LEFTS) { sum30 = subgroupMatrixMultiplyAccumulate(a13, b, sum30); }
      }
      if (1u < RIGHTS) {
        let strip = &strips[buffer + rightStrip + 1u * N / EDGE];
        var b: Right;
        if (RIGHT_BY_TERMS) {
          b = subgroupMatrixLoad<Right, row_major>(strip, term1 * LINE + 1u * N % EDGE / 8u, LINE);
        } else {
          b = subgroupMatrixLoad<Right, col_major>(strip, 1u * N % EDGE * LINE + term1 / 8u, LINE);
        }
        if (0u < LEFTS) { sum01 = subgroupMatrixMultiplyAccumulate(a10, b, sum01); }
        if (1u < LEFTS) { sum11 = subgroupMatrixMultiplyAccumulate(a11, b, sum11); }
        if (2u < LEFTS) { sum21 = subgroupMatrixMultiplyAccumulate(a12, b, sum21); }
        if (3u < LEFTS) { sum31 = subgroupMatrixMultiplyAccumulate(a13, b, sum31); }
      }
      if (2u < RIGHTS) {
        let strip = &strips[buffer + rightStrip + 2u * N / EDGE];
        var b: Right;
        if (RIGHT_BY_TERMS) {
          b = subgroupMatrixLoad<Right, row_major>(strip, term1 * LINE + 2u * N % EDGE / 8u, LINE);
        } else {
          b = subgroupMatrixLoad<Right, col_major>(strip, 2u * N % EDGE * LINE + term1 / 8u, LINE);
        }
        if (0u < LEFTS) { sum02 = subgroupMatrixMultiplyAccumulate(a10, b, sum02); }
        if (1u < LEFTS) { sum12 = subgroupMatrixMultiplyAccumulate(a11, b, sum12); }
        if (2u < LEFTS) { sum22 = subgroupMatrixMultiplyAccumulate(a12, b, sum22); }
        if (3u < LEFTS) { sum32 = subgroupMatrixMultiplyAccumulate(a13, b, sum32); }
      }
      if (3u < RIGHTS) {
        let strip = &strips[buffer + rightStrip + 3u * N / EDGE];
        var b: Right;
        if (RIGHT_BY_TERMS) {
          b = subgroupMatrixLoad<Right, row_major>(strip, term1 * LINE + 3u * N % EDGE / 8u, LINE);
        } else {
          b = subgroupMatrixLoad<Right, col_major>(strip, 3u * N % EDGE * LINE + term1 / 8u, LINE);
        }
        if (0u < LEFTS) { sum03 = subgroupMatrixMultiplyAccumulate(a10, b, sum03); }
        if (1u < LEFTS) { sum13 = subgroupMatrixMultiplyAccumulate(a11, b, sum13); }
        if (2u < LEFTS) { sum23 = subgroupMatrixMultiplyAccumulate(a12, b, sum23); }
        if (3u < LEFTS) { sum33 = subgroupMatrixMultiplyAccumulate(a13, b, sum33); }
      }
    }
  }
  let first = range * parameters.rows * parameters.columns;
  if (0u < LEFTS) {
    if (0u < COLUMNS) {
      workgroupBarrier();
      if (0u < RIGHTS && 0u * N / EDGE == 0u) {
        subgroupMatrixStore<row_major>(&strips[subgroup], 0u * N % EDGE / 4u, sum00, 9u);
      }
      if (1u < RIGHTS && 1u * N / EDGE == 0u) {
        subgroupMatrixStore<row_major>(&strips[subgroup], 1u * N % EDGE / 4u, sum01, 9u);
      }
      if (2u < RIGHTS && 2u * N / EDGE == 0u) {
        subgroupMatrixStore<row_major>(&strips[subgroup], 2u * N % EDGE / 4u, sum02, 9u);
      }
      if (3u < RIGHTS && 3u * N / EDGE == 0u) {
        subgroupMatrixStore<row_major>(&strips[subgroup], 3u * N % EDGE / 4u, sum03, 9u);
      }
      workgroupBarrier();
      for (var n = 0u; n < DOWN * ACROSS * M * EDGE / 4u / THREADS; n++) {
        let at = n * THREADS + thread;
        let part = at / (M * EDGE / 4u);
        let line = at / (EDGE / 4u) % M;
        let vector = at % (EDGE / 4u);
        let row = firstRow + part / ACROSS * ROWS * EDGE + 0u * M + line;
        let column = (firstColumn + (part % ACROSS * COLUMNS + 0u) * EDGE) / 4u + vector;
        if (row < parameters.rows && column < parameters.columns) {
          write(first, row, column, bitcast<vec4<f32>>(strips[part][line * 9u + vector]));
        }
      }
    }
    if (1u < COLUMNS) {
      workgroupBarrier();
      if (0u < RIGHTS && 0u * N / EDGE == 1u) {
        subgroupMatrixStore<row_major>(&strips[subgroup], 0u * N % EDGE / 4u, sum00, 9u);
      }
      if (1u < RIGHTS && 1u * N / EDGE == 1u) {
        subgroupMatrixStore<row_major>(&strips[subgroup], 1u * N % EDGE / 4u, sum01, 9u);
      }
      if (2u < RIGHTS && 2u * N / EDGE == 1u) {
        subgroupMatrixStore<row_major>(&strips[subgroup], 2u * N % EDGE / 4u, sum02, 9u);
      }
      if (3u < RIGHTS && 3u * N / EDGE == 1u) {
        subgroupMatrixStore<row_major>(&strips[subgroup], 3u * N % EDGE / 4u, sum03, 9u);
      }
      workgroupBarrier();
      for (var n = 0u; n < DOWN * ACROSS * M * EDGE / 4u / THREADS; n++) {
        let at = n * THREADS + thread;
        let part = at / (M * EDGE / 4u);
        let line = at / (EDGE / 4u) % M;
        let vector = at % (EDGE / 4u);
        let row = firstRow + part / ACROSS * ROWS * EDGE + 0u * M + line;
        let column = (firstColumn + (part % ACROSS * COLUMNS + 1u) * EDGE) / 4u + vector;
        if (row < parameters.rows && column < parameters.columns) {
          write(first, row, column, bitcast<vec4<f32>>(strips[part][line * 9u + vector]));
        }
      }
    }
  }
  if (1u < LEFTS) {
    if (0u < COLUMNS) {
      workgroupBarrier();
      if (0u < RIGHTS && 0u * N / EDGE == 0u) {
        subgroupMatrixStore<row_major>(&strips[subgroup], 0u * N % EDGE / 4u, sum10, 9u);
      }
      if (1u < RIGHTS && 1u * N / EDGE == 0u) {
        subgroupMatrixStore<row_major>(&strips[subgroup], 1u * N % EDGE / 4u, sum11, 9u);
      }
      if (2u < RIGHTS && 2u * N / EDGE == 0u) {
        subgroupMatrixStore<row_major>(&strips[subgroup], 2u * N % EDGE / 4u, sum12, 9u);
      }
      if (3u < RIGHTS && 3u * N / EDGE == 0u) {
        subgroupMatrixStore<row_major>(&strips[subgroup], 3u * N % EDGE / 4u, sum13, 9u);
      }
      workgroupBarrier();
      for (var n = 0u; n < DOWN * ACROSS * M * EDGE / 4u / THREADS; n++) {
        let at = n * THREADS + thread;
        let part = at / (M * EDGE / 4u);
        let line = at / (EDGE / 4u) % M;
        let vector = at % (EDGE / 4u);
        let row = firstRow + part / ACROSS * ROWS * EDGE + 1u * M + line;
        let column = (firstColumn + (part % ACROSS * COLUMNS + 0u) * EDGE) / 4u + vector;
        if (row < parameters.rows && column < parameters.columns) {
          write(first, row, column, bitcast<vec4<f32>>(strips[part][line * 9u + vector]));
        }
      }
    }
    if (1u < COLUMNS) {
      workgroupBarrier();
      if (0u < RIGHTS && 0u * N / EDGE == 1u) {
        subgroupMatrixStore<row_major>(&strips[subgroup], 0u * N % EDGE / 4u, sum10, 9u);
      }
      if (1u < RIGHTS && 1u * N / EDGE == 1u) {
        subgroupMatrixStore<row_major>(&strips[subgroup], 1u * N % EDGE / 4u, sum11, 9u);
      }
      if (2u < RIGHTS && 2u * N / EDGE == 1u) {
        subgroupMatrixStore<row_major>(&strips[subgroup], 2u * N % EDGE / 4u, sum12, 9u);
      }
      if (3u < RIGHTS && 3u * N / EDGE == 1u) {
        subgroupMatrixStore<row_major>(&strips[subgroup], 3u * N % EDGE / 4u, sum13, 9u);
      }
      workgroupBarrier();
      for (var n = 0u; n < DOWN * ACROSS * M * EDGE / 4u / THREADS; n++) {
        let at = n * THREADS + thread;
        let part = at / (M * EDGE / 4u);
        let line = at / (EDGE / 4u) % M;
        let vector = at % (EDGE / 4u);
        let row = firstRow + part / ACROSS * ROWS * EDGE + 1u * M + line;
        let column = (firstColumn + (part % ACROSS * COLUMNS + 1u) * EDGE) / 4u + vector;
        if (row < parameters.rows && column < parameters.columns) {
          write(first, row, column, bitcast<vec4<f32>>(strips[part][line * 9u + vector]));
        }
      }
    }
  }
  if (2u < LEFTS) {
    if (0u < COLUMNS) {
      workgroupBarrier();
      if (0u < RIGHTS && 0u * N / EDGE == 0u) {
        subgroupMatrixStore<row_major>(&strips[subgroup], 0u * N % EDGE / 4u, sum20, 9u);
      }
      if (1u < RIGHTS && 1u * N / EDGE == 0u) {
        subgroupMatrixStore<row_major>(&strips[subgroup], 1u * N % EDGE / 4u, sum21, 9u);
      }
      if (2u < RIGHTS && 2u * N / EDGE == 0u) {
        subgroupMatrixStore<row_major>(&strips[subgroup], 2u * N % EDGE / 4u, sum22, 9u);
      }
      if (3u < RIGHTS && 3u * N / EDGE == 0u) {
        subgroupMatrixStore<row_major>(&strips[subgroup], 3u * N % EDGE / 4u, sum23, 9u);
      }
      workgroupBarrier();
      for (var n = 0u; n < DOWN * ACROSS * M * EDGE / 4u / THREADS; n++) {
        let at = n * THREADS + thread;
        let part = at / (M * EDGE / 4u);
        let line = at / (EDGE / 4u) % M;
        let vector = at % (EDGE / 4u);
        let row = firstRow + part / ACROSS * ROWS * EDGE + 2u * M + line;
        let column = (firstColumn + (part % ACROSS * COLUMNS + 0u) * EDGE) / 4u + vector;
        if (row < parameters.rows && column < parameters.columns) {
          write(first, row, column, bitcast<vec4<f32>>(strips[part][line * 9u + vector]));
        }
      }
    }
    if (1u < COLUMNS) {
      workgroupBarrier();
      if (0u < RIGHTS && 0u * N / EDGE == 1u) {
        subgroupMatrixStore<row_major>(&strips[subgroup], 0u * N % EDGE / 4u, sum20, 9u);
      }
      if (1u < RIGHTS && 1u * N / EDGE == 1u) {
        subgroupMatrixStore<row_major>(&strips[subgroup], 1u * N % EDGE / 4u, sum21, 9u);
      }
      if (2u < RIGHTS && 2u * N / EDGE == 1u) {
        subgroupMatrixStore<row_major>(&strips[subgroup], 2u * N % EDGE / 4u, sum22, 9u);
      }
      if (3u < RIGHTS && 3u * N / EDGE == 1u) {
        subgroupMatrixStore<row_major>(&strips[subgroup], 3u * N % EDGE / 4u, sum23, 9u);
      }
      workgroupBarrier();
      for (var n = 0u; n < DOWN * ACROSS * M * EDGE / 4u / THREADS; n++) {
        let at = n * THREADS + thread;
        let part = at / (M * EDGE / 4u);
        let line = at / (EDGE / 4u) % M;
        let vector = at % (EDGE / 4u);
        let row = firstRow + part / ACROSS * ROWS * EDGE + 2u * M + line;
        let column = (firstColumn + (part % ACROSS * COLUMNS + 1u) * EDGE) / 4u + vector;
        if (row < parameters.rows && column < parameters.columns) {
          write(first, row, column, bitcast<vec4<f32>>(strips[part][line * 9u + vector]));
        }
      }
    }
  }
  if (3u < LEFTS) {
    if (0u < COLUMNS) {
      workgroupBarrier();
      if (0u < RIGHTS && 0u * N / EDGE == 0u) {
        subgroupMatrixStore<row_major>(&strips[subgroup], 0u * N % EDGE / 4u, sum30, 9u);
      }
      if (1u < RIGHTS && 1u * N / EDGE == 0u) {
        subgroupMatrixStore<row_major>(&strips[subgroup], 1u * N % EDGE / 4u, sum31, 9u);
      }
      if (2u < RIGHTS && 2u * N / EDGE == 0u) {
        subgroupMatrixStore<row_major>(&strips[subgroup], 2u * N % EDGE / 4u, sum32, 9u);
      }
      if (3u < RIGHTS && 3u * N / EDGE == 0u) {
        subgroupMatrixStore<row_major>(&strips[subgroup], 3u * N % EDGE / 4u, sum33, 9u);
      }
      workgroupBarrier();
      for (var n = 0u; n < DOWN * ACROSS * M * EDGE / 4u / THREADS; n++) {
        let at = n * THREADS + thread;
        let part = at / (M * EDGE / 4u);
        let line = at / (EDGE / 4u) % M;
        let vector = at % (EDGE / 4u);
        let row = firstRow + part / ACROSS * ROWS * EDGE + 3u * M + line;
        let column = (firstColumn + (part % ACROSS * COLUMNS + 0u) * EDGE) / 4u + vector;
        if (row < parameters.rows && column < parameters.columns) {
          write(first, row, column, bitcast<vec4<f32>>(strips[part][line * 9u + vector]));
        }
      }
    }
    if (1u < COLUMNS) {
      workgroupBarrier();
      if (0u < RIGHTS && 0u * N / EDGE == 1u) {
        subgroupMatrixStore<row_major>(&strips[subgroup], 0u * N % EDGE / 4u, sum30, 9u);
      }
      if (1u < RIGHTS && 1u * N / EDGE == 1u) {
        subgroupMatrixStore<row_major>(&strips[subgroup], 1u * N % EDGE / 4u, sum31, 9u);
      }
      if (2u < RIGHTS && 2u * N / EDGE == 1u) {
        subgroupMatrixStore<row_major>(&strips[subgroup], 2u * N % EDGE / 4u, sum32, 9u);
      }
      if (3u < RIGHTS && 3u * N / EDGE == 1u) {
        subgroupMatrixStore<row_major>(&strips[subgroup], 3u * N % EDGE / 4u, sum33, 9u);
      }
      workgroupBarrier();
      for (var n = 0u; n < DOWN * ACROSS * M * EDGE / 4u / THREADS; n++) {
        let at = n * THREADS + thread;
        let part = at / (M * EDGE / 4u);
        let line = at / (EDGE / 4u) % M;
        let vector = at % (EDGE / 4u);
        let row = firstRow + part / ACROSS * ROWS * EDGE + 3u * M + line;
        let column = (firstColumn + (part % ACROSS * COLUMNS + 1u) * EDGE) / 4u + vector;
        if (row < parameters.rows && column < parameters.columns) {
          write(first, row, column, bitcast<vec4<f32>>(strips[part][line * 9u + vector]));
        }
      }
    }
  }
}
`;

const halvesModule = /* @__PURE__ */ (() => ({
  code: directivesSource + foldedSource + bfloat16Source + halvesSource,
  overrides: ["PACKED"],
  aliases: ["X"],
} as const))();

/** gpu/units/halves.wgsl */
export const halves = /* @__PURE__ */ (() => ({
  constants: { PARTS: 256, VECTORS: 8 },
  largest: {
    ...halvesModule,
    entryPoint: "largest",
    threads: 256,
    bindings: {
      x: [0, "read"],
      found: [1, "read_write"],
    },
    parameters: {
      rows: [0, "u32"],
      vectors: [1, "u32"],
      size: [2, "u32"],
      padded: [3, "u32"],
      parts: [4, "u32"],
      workgroups: [5, "u32"],
    },
  },
  round: {
    ...halvesModule,
    entryPoint: "round",
    threads: 256,
    bindings: {
      x: [0, "read"],
      known: [1, "read"],
      halves: [2, "read_write"],
      exponents: [3, "read_write"],
    },
    parameters: {
      rows: [0, "u32"],
      vectors: [1, "u32"],
      size: [2, "u32"],
      padded: [3, "u32"],
      parts: [4, "u32"],
      workgroups: [5, "u32"],
    },
  },
  roundRows: {
    ...halvesModule,
    entryPoint: "roundRows",
    threads: 256,
    bindings: {
      x: [0, "read"],
      halves: [2, "read_write"],
      exponents: [3, "read_write"],
    },
    parameters: {
      rows: [0, "u32"],
      vectors: [1, "u32"],
      size: [2, "u32"],
      padded: [3, "u32"],
      parts: [4, "u32"],
      workgroups: [5, "u32"],
    },
  },
} as const))();

const lightningModule = /* @__PURE__ */ (() => ({
  code: directivesSource + foldedSource + lightningSource,
  overrides: ["UNIT","THREADS","SUBGROUPS","LANES","HEAD","VALUE","HALF","REVERSE","SUMS","BLOCK","DECAYS","CHUNK","COLUMNS","ACROSS","HIGH","ROWS","KEYS","BUFFERS","STRIPS","PASS","OUTPUT_HALF"],
  aliases: ["AttendKeys","AttendLefts","AttendProducts","AttendQueries","AttendRows","AttendSums","AttendValues","Left","MaskedStrip","ProductStrip","Right","StateHalves","StateSums","Strip","Sums","ValueStrip","WalkKeyStrip","WalkKeys","WalkRights","WalkSums","WalkValueStrip","WalkValues"],
} as const))();

/** gpu/units/lightning.wgsl */
export const lightning = /* @__PURE__ */ (() => ({
  constants: {},
  walkSegments: {
    ...lightningModule,
    entryPoint: "walkSegments",
    threads: undefined,
    bindings: {
      table: [0, "read"],
      decays: [1, "read"],
      scratch: [2, "read_write"],
      k: [3, "read"],
      v: [4, "read"],
      state: [7, "read_write"],
      states: [8, "read_write"],
      exponents: [9, "read_write"],
    },
    parameters: {
      query: [0, "vec4u"],
      key: [4, "vec4u"],
      value: [8, "vec4u"],
      queryGroup: [12, "u32"],
      keyGroup: [13, "u32"],
      heads: [14, "u32"],
      firstHead: [15, "u32"],
      headCount: [16, "u32"],
      workgroups: [17, "u32"],
      segments: [18, "u32"],
      sequences: [19, "u32"],
      stateOrigin: [20, "u32"],
      keyScale: [21, "f32"],
      queryScale: [22, "f32"],
    },
  },
  attendChunks: {
    ...lightningModule,
    entryPoint: "attendChunks",
    threads: undefined,
    bindings: {
      table: [0, "read"],
      decays: [1, "read"],
      k: [3, "read"],
      v: [4, "read"],
      q: [5, "read"],
      output: [6, "read_write"],
      chunkStates: [8, "read"],
      chunkExponents: [9, "read"],
    },
    parameters: {
      query: [0, "vec4u"],
      key: [4, "vec4u"],
      value: [8, "vec4u"],
      queryGroup: [12, "u32"],
      keyGroup: [13, "u32"],
      heads: [14, "u32"],
      firstHead: [15, "u32"],
      headCount: [16, "u32"],
      workgroups: [17, "u32"],
      segments: [18, "u32"],
      sequences: [19, "u32"],
      stateOrigin: [20, "u32"],
      keyScale: [21, "f32"],
      queryScale: [22, "f32"],
    },
  },
} as const))();

const productModule = /* @__PURE__ */ (() => ({
  code: directivesSource + foldedSource + productSource,
  overrides: ["M","N","K","DOWN","ACROSS","ROWS","COLUMNS","BUFFERS","THREADS","LEFT_BY_TERMS","RIGHT_BY_TERMS"],
  aliases: ["Accumulator","Bias","Left","Residual","Result","Right"],
} as const))();

/** gpu/units/product.wgsl */
export const product = /* @__PURE__ */ (() => ({
  constants: { EDGE: 32, LINE: 5, STRIP: 160, BIAS: 1, RESIDUAL: 2, RESULT: 4 },
  multiply: {
    ...productModule,
    entryPoint: "multiply",
    threads: undefined,
    bindings: {
      left: [0, "read"],
      right: [1, "read"],
      leftExponents: [2, "read"],
      rightExponents: [3, "read"],
      bias: [4, "read"],
      residual: [5, "read"],
      result: [6, "read_write"],
    },
    parameters: {
      rows: [0, "u32"],
      columns: [1, "u32"],
      down: [2, "u32"],
      across: [3, "u32"],
      band: [4, "u32"],
      steps: [5, "u32"],
      allSteps: [6, "u32"],
      leftStride: [7, "u32"],
      rightStride: [8, "u32"],
      workgroups: [9, "u32"],
      added: [10, "u32"],
      leftScales: [11, "u32"],
      rightScales: [12, "u32"],
    },
  },
} as const))();
