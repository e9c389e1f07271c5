// Lightning Attention on matrix units: f16 operands, f32 sums, the state carried in f32. As in ../lightning.wgsl the host
// cuts sequences into segments; segments are cut into chunks, and it dispatches
//   walkSegments  one workgroup per (segment but the last, head, COLUMNS of the state): the segment's own sum of k vᵀ
//   carryState    of ../lightning.wgsl, in f32: the state before each segment
//   walkSegments  of all segments, from that state: writes the state before each chunk, as f16
//   attendChunks  one workgroup per (chunk, head, ROWS queries): outputs
//
// With i and j counted from the start of a chunk, and S the state before it:
//   O[i] = λ^(i+1) q_iᵀ S + Σ_{j≤i} λ^(i−j) (q_i·k_j) v_j
//   S ← λ^m S + Σ_j λ^(m−1−j) k_j v_jᵀ
// All factors are at most 1. A product of matrices takes f16 from workgroup memory and leaves f32, which only workgroup
// memory can turn into f16: that is the way of Q Kᵀ ⊙ M, and of S once per chunk.
//
// Range: operands, states and the masked products are scaled by powers of two, so that the largest of what a workgroup
// takes into memory lies in [2^14, 2^15). `x · 2^e` is stored, e is its exponent. Sums keep an exponent, too, and change it
// by an exact product. So f16 bounds the range within a block of tokens, 2^29, not that of the operands. (What is f16
// in memory is stored as it is, only products of it are scaled.)
//
// headDim and valueDim are multiples of 8 and of UNIT. REVERSE as in ../lightning.wgsl: the state that arrives at a
// segment has decayed to its first token, and the last one decays once more.

// import directives.wgsl, ../folded.wgsl

override UNIT: u32;      // rows and columns of a matrix that the units take
override THREADS: u32;   // LANES · SUBGROUPS
override SUBGROUPS: u32; // of a workgroup
override LANES: u32;     // of a subgroup
override HEAD: u32;      // headDim
override VALUE: u32;     // valueDim
override HALF: bool;     // operands are f16, else f32
override REVERSE: bool;
override SUMS: bool;     // of walkSegments, see there
override BLOCK: u32;     // tokens that a walk takes into memory together
override DECAYS: u32;    // numbers of a head in `decays`
override CHUNK: u32;     // tokens from one stored state to the next, a multiple of BLOCK and of ROWS
override COLUMNS: u32;   // of the state, of one workgroup of a walk
override ACROSS: u32;    // subgroups that share queries, each with a part of the keys and of the output's columns
override HIGH: u32;      // matrices that the queries of a subgroup are high
override ROWS: u32;      // queries of a workgroup: SUBGROUPS / ACROSS · HIGH · UNIT
override KEYS: u32;      // keys and values that attendChunks takes into memory together
override BUFFERS: u32;   // of them: with 2, storing the next ones overlaps with the products of these
override STRIPS: u32;    // of attendChunks: of its queries, of keys in all buffers, or subgroups, whichever is most
override PASS: u32;      // columns of the output that fit into a strip as f32
override OUTPUT_HALF: bool; // output is f16, else f32

struct Shape {
  // Elements from one batch element, one head and one token to the next, and those before the bound window.
  query: vec4<u32>,
  key: vec4<u32>,
  value: vec4<u32>,
  queryGroup: u32, // heads that share a head of q, and of k
  keyGroup: u32,
  heads: u32,
  firstHead: u32,
  headCount: u32,  // heads of this dispatch, from firstHead
  workgroups: u32,
  segments: u32,   // entries of the table: segments, of which each sequence's last one comes last, then sequences, then chunks
  sequences: u32,
  stateOrigin: u32, // states before the bound window
  keyScale: f32,   // of k vᵀ
  queryScale: f32, // of the output
}

@group(1) @binding(0) var<uniform> shape: Shape;

// Segments: first token, tokens, batch element, first chunk. Sequences: first segment, segments but the last, row of the
// state, origin. Chunks: first token, tokens, batch element, 1 for the first one of a segment.
@group(0) @binding(0) var<storage, read> table: array<vec4<u32>>;
// [heads, DECAYS]: slope · log2(e), decayChange of core/decay.ts for 0 ... DECAYS − 2 tokens
@group(0) @binding(1) var<storage, read> decays: array<f32>;
// [segments, headCount, HEAD, VALUE / 4]: the sum of each segment, or the state before it
@group(0) @binding(2) var<storage, read_write> scratch: array<StateSums>;
@group(0) @binding(3) var<storage, read> k: array<vec4<u32>>; // 8 f16 or 4 f32 to a vector, strides in `shape`
@group(0) @binding(4) var<storage, read> v: array<vec4<u32>>;
@group(0) @binding(5) var<storage, read> q: array<vec4<u32>>;
@group(0) @binding(6) var<storage, read_write> output: array<vec4<u32>>; // as v
@group(0) @binding(7) var<storage, read_write> state: array<StateSums>; // [sequences, heads, HEAD, VALUE / 4]
// [chunks, headCount, ACROSS, HEAD, VALUE / ACROSS / 8]: the state before each chunk, f16; and its exponents, [chunks, headCount, VALUE / COLUMNS]
@group(0) @binding(8) var<storage, read_write> states: array<StateHalves>;
@group(0) @binding(9) var<storage, read_write> exponents: array<i32>;
@group(0) @binding(8) var<storage, read> chunkStates: array<StateHalves>;
@group(0) @binding(9) var<storage, read> chunkExponents: array<i32>;

// Workgroup memory is strips, each an array, and what is loaded from one begins at a constant place: so the check that
// Dawn puts before each load of a matrix is decided when the kernel is compiled. Rows are one vector longer than they need
// be, which keeps them in different banks. Bounds of loops are constants for the same reason: else Dawn adds a counter that
// ends them, and they are not unrolled.
override WALK_KEY_STRIDE = HEAD / 8u / SUBGROUPS + 1u;
override WALK_VALUE_STRIDE = COLUMNS / 8u + 1u;
var<workgroup> walkKeys: array<WalkKeyStrip, SUBGROUPS>; // a subgroup's rows of the state: [BLOCK, rows]; or its part of the state
var<workgroup> walkValues: WalkValueStrip;               // [BLOCK, COLUMNS]
override STRIDE = HEAD / 8u + 1u;
override VALUE_STRIDE = VALUE / ACROSS / 8u + 1u;
override PRODUCT_STRIDE = KEYS / ACROSS / 4u + 1u;
override MASKED_STRIDE = KEYS / 8u + 1u;
override QUERY_STRIPS = ROWS / UNIT;
override VALUE_STRIPS = BUFFERS * KEYS / UNIT * ACROSS;
override PRODUCT_STRIPS = QUERY_STRIPS * ACROSS;
var<workgroup> strips: array<Strip, STRIPS>;                  // UNIT queries or keys; or what a subgroup writes of the output
var<workgroup> valueStrips: array<ValueStrip, VALUE_STRIPS>;  // UNIT values, a part of their columns
var<workgroup> products: array<ProductStrip, PRODUCT_STRIPS>; // UNIT rows of a part of Q Kᵀ, f32
var<workgroup> masked: array<MaskedStrip, QUERY_STRIPS>;      // UNIT rows of Q Kᵀ ⊙ M, f16
// Of each subgroup, the bits of the largest elements of k or q, and of v. In attendChunks two steps take turns, in walks
// blocks and states do.
var<workgroup> largest: array<array<vec2<u32>, 32>, 2>;

// ------------------------------------------------------------------------------------------ vectors of 8 elements

// As they lie in memory: 8 f16 in `first`, or 4 f32 in each.
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

// The first vector of a token's row, and from a token to the next one, in vectors of 8: negative with REVERSE.
fn rowStart(strides: vec4<u32>, batch: u32, head: u32, token: u32) -> u32 {
  return (batch * strides.x + head * strides.y + token * strides.z - strides.w) / 8u;
}

fn tokenStride(strides: vec4<u32>) -> u32 {
  return u32(i32(strides.z) / 8);
}

// ---------------------------------------------------------------------------------------------- powers of two

// 2^e; zero below the normal numbers.
fn power(e: i32) -> f32 {
  return select(bitcast<f32>(u32(min(e, 127) + 127) << 23u), 0.0, e < -126);
}

// The bits of the largest |x|, infinities and NaN aside: of 4 f32, and of 8 elements.
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

// e with 2^(e−1) <= x < 2^e, of the bits of x.
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

// After a barrier: exponents that bound the largest elements.
fn sharedBounds(step: u32) -> vec2<i32> {
  var bits = vec2<u32>();
  for (var i = 0u; i < SUBGROUPS; i++) { bits = max(bits, largest[step % 2u][i]); }
  return vec2<i32>(binaryExponent(bits.x), binaryExponent(bits.y));
}

// The exponent that brings what is bounded by 2^bound below 2^15. (100 at most: of zeros anything would do.)
fn exponentFor(bound: i32) -> i32 {
  return min(15 - bound, 100);
}

// ----------------------------------------------------------------------------------------------- walkSegments

override ROW_TILES = HEAD / UNIT / SUBGROUPS; // of a subgroup's part of the state
override COLUMN_TILES = COLUMNS / UNIT;
override TILES = ROW_TILES * COLUMN_TILES;
override PART = VALUE / ACROSS; // columns of the output, and of the state, of a subgroup of attendChunks
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

// k and v of the block from `token`; a row outside repeats the last one.
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

// The state of a workgroup, to memory and as f16 to `states`; bounds what the sums hold.
fn storeState(sums: ptr<function, WalkSums>, index: u32, columnTile: u32, unit: i32, thread: u32, subgroup: u32, lane: u32) -> i32 {
  workgroupBarrier(); // products of the block before have been taken
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

// S ← λ^m S + Σ_j λ^(m−1−j) k_j v_jᵀ over a segment, where the state before each chunk is stored. Returns the exponent of
// the sums.
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
  var unit = 0;       // the exponent of the sums
  var bound = 0.0;    // of them
  var rest = 0.0;     // what rounding took from the decays so far
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
      // Values far smaller than the state lose digits that the state has not.
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

    // λ^m, so that the product of all of them is what it should be: rounding near 1 would forget small decays.
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

// With SUMS the segment's own sum to `scratch`. Else from the state there: the states of chunks, and the last one.
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
  let part = (subgroup * ROW_TILES * UNIT * VALUE + place.columnTile * COLUMNS) / 4u; // of a state
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
      } else { // the last segments of the sequences are the table's last
        let sequence = table[place.segmentIndex + shape.sequences].z;
        let end = sequence * shape.heads + head - shape.stateOrigin;
        subgroupMatrixStore<row_major>(&state[end], at, tile, VALUE / 4u);
      }
    }
  }
}

// ------------------------------------------------------------------------------------------------- attendChunks

override QUERY_LOADS = (ROWS * HEAD / 8u + THREADS - 1u) / THREADS;
override ATTEND_KEY_LOADS = (KEYS * HEAD / 8u + THREADS - 1u) / THREADS;
override ATTEND_VALUE_LOADS = (KEYS * VALUE / 8u + THREADS - 1u) / THREADS;
override KEY_STRIPS = KEYS / UNIT; // of one buffer
override OUTPUTS = PART / UNIT; // matrices that a subgroup's part of the output is wide
override PART_STRIPS = KEY_STRIPS / ACROSS; // whose products a subgroup computes
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

// k and v to a buffer; zero from `count` on.
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

// λ^n 2^e
fn decayed(e: i32, decay: f32, n: u32) -> f32 {
  return exp2(max(f32(e) - decay * f32(n), -200.0));
}

// q_i·k_j λ^n 2^e, n = i − j; zero where j comes after i.
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
  let first = id % (CHUNK / ROWS) * ROWS; // query of the chunk
  id /= CHUNK / ROWS;
  let localHead = id % shape.headCount;
  let head = shape.firstHead + localHead;
  let chunkIndex = id / shape.headCount;
  let chunk = table[shape.segments + shape.sequences + chunkIndex];
  if (first >= chunk.y) { return; }
  let count = min(first + ROWS, chunk.y); // keys that these queries see
  let decay = decays[head * DECAYS];
  let valueStart = rowStart(shape.value, chunk.z, head, chunk.x);
  let walk = Walk(
    rowStart(shape.key, chunk.z, head / shape.keyGroup, chunk.x),
    tokenStride(shape.key),
    valueStart,
    tokenStride(shape.value),
    count,
  );

  let firstStrip = subgroup / ACROSS * HIGH; // of the subgroup's queries
  let across = subgroup % ACROSS;

  // Queries, decayed for the state and as they are.
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
  // λ^(i+1) q_i; with REVERSE the first state of a segment has decayed to its token 0.
  let ahead = select(1u, 0u, REVERSE && chunk.w == 1u);
  for (var i = 0u; i < QUERY_LOADS; i++) {
    let at = i * THREADS + thread;
    let row = at / (HEAD / 8u);
    if (ROWS * HEAD / 8u % THREADS == 0u || row < ROWS) {
      strips[row / UNIT][row % UNIT * STRIDE + at % (HEAD / 8u)] = halves(decayed(decayedExponent, decay, first + row + ahead) * unpacked(queries[i]));
    }
  }
  workgroupBarrier();

  // interBlock
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
  var unit = chunkExponents[exponentStart]; // of the sums
  for (var i = 1u; i < WIDE_COLUMNS; i++) { unit = min(unit, chunkExponents[exponentStart + i]); }
  for (var column = 0u; column < OUTPUTS; column++) {
    let e = chunkExponents[exponentStart + (across * PART + column * UNIT) / COLUMNS];
    for (var row = 0u; row < HIGH; row++) {
      sums[row * OUTPUTS + column] = subgroupMatrixScalarMultiply(sums[row * OUTPUTS + column], power(unit - e));
    }
  }
  unit += decayedExponent;
  var least = unit; // below 2^45 with this exponent, sums have room for 2^80 more

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

  // intraBlock
  let lastRow = first + (firstStrip + HIGH) * UNIT - 1u; // of the subgroup
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
        for (var row = 0u; row < HIGH; row++) { parts[row] = Sums(); } // Dawn 0.6.2 makes them zero once, not for each column
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

    // The mask, in f16. |q·k| < HEAD 2^(both bounds) <= 2^(both bounds + its own).
    let productBound = queryBound + bounds.x + keyScaleBound() + i32(firstLeadingBit(HEAD - 1u) + 1u);
    var exponent = 15 - productBound; // of the masked products as they are
    var valueExponent = 0;
    if (!HALF) { valueExponent = exponentFor(bounds.y); }
    let before = unit;
    let natural = min(exponent, 200) + valueExponent;
    least = min(least, natural);
    unit = min(natural, least + 80); // large terms of old keys must not take the digits of small new ones
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

  // To the output, some columns at a time. 2^−unit may be no f32, its halves are.
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
