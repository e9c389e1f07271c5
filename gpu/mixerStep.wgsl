// One token of each sequence through a token mixer, between its projections. A row of x is [query | key | value | gate]:
// query and key are activated and, with LRPE, encoded as [x·cos(θ·p), x·sin(θ·p)]; S ← λ S + k vᵀ; attended = qᵀ S, and
// gated = gate ⊙ attended. One workgroup per (sequence, head, 64 elements of the value). Sums have the order of `step` in
// lightning.wgsl.

// import folded.wgsl, activation.wgsl

override HEAD: u32; // elements of a head of x
override KEYS: u32; // of a head of the state: HEAD, with LRPE twice that

struct Parameters {
  workgroups: u32,
  heads: u32,
  rowTable: u32, // 0: sequence b has state b, else tokens[b].y
}

@group(0) @binding(0) var<storage, read> x: array<vec4<f32>>; // [rows, 4, heads, HEAD / 4]
@group(0) @binding(1) var<storage, read> decays: array<f32>; // [heads]
@group(0) @binding(2) var<storage, read> theta: array<f32>; // [heads, HEAD]
@group(0) @binding(3) var<storage, read> tokens: array<vec2u>; // [rows], position and row of the state
@group(0) @binding(4) var<storage, read_write> states: array<vec4<f32>>; // [states, heads, KEYS, HEAD / 4]
@group(0) @binding(5) var<storage, read_write> attended: array<vec4<f32>>; // [rows, heads, HEAD / 4]
@group(0) @binding(6) var<storage, read_write> gated: array<vec4<f32>>; // [rows, heads, HEAD / 4]
@group(1) @binding(0) var<uniform> parameters: Parameters;

var<workgroup> queries: array<f32, KEYS>;
var<workgroup> keys: array<f32, KEYS>;
var<workgroup> partial: array<array<vec4<f32>, 16>, 16>;

@compute @workgroup_size(256)
fn main(
  @builtin(workgroup_id) workgroup: vec3u,
  @builtin(num_workgroups) workgroups: vec3u,
  @builtin(local_invocation_index) thread: u32,
) {
  let id = folded(workgroup, workgroups);
  if (id >= parameters.workgroups) { return; }
  let heads = parameters.heads;
  let vectors = HEAD / 4u;
  let tiles = (vectors + 15u) / 16u;
  let index = id / tiles; // of the sequence and head
  let row = index / heads;
  let head = index % heads;
  let queryAt = (row * 4u * heads + head) * vectors;
  let keyAt = queryAt + heads * vectors;

  for (var i = thread; i < HEAD; i += 256u) {
    let query = activate(x[queryAt + i / 4u][i % 4u], 0);
    let key = activate(x[keyAt + i / 4u][i % 4u], 0);
    if (KEYS > HEAD) {
      let encoded = cosSin(theta[head * HEAD + i], tokens[row].x);
      queries[i] = query * encoded.x;
      queries[i + HEAD] = query * encoded.y;
      keys[i] = key * encoded.x;
      keys[i + HEAD] = key * encoded.y;
    } else {
      queries[i] = query;
      keys[i] = key;
    }
  }
  workgroupBarrier();

  let column = id % tiles * 16u + thread % 16u;
  var stateRow = row;
  if (parameters.rowTable != 0u) { stateRow = tokens[row].y; }
  let stateAt = (stateRow * heads + head) * KEYS;
  // decayChange of core/decay.ts: λ − 1, added to S itself, keeps the digits that λ would lose near 1; else λ.
  let change = decays[head];
  let keep = select(0.0, 1.0, change <= 0.0);
  var sum = vec4<f32>();
  if (column < vectors) {
    let value = x[keyAt + heads * vectors + column];
    for (var i = thread / 16u; i < KEYS; i += 16u) {
      let at = (stateAt + i) * vectors + column;
      let old = states[at];
      let update = fma(vec4<f32>(keys[i]), value, change * old);
      let next = fma(vec4<f32>(keep), old, update);
      states[at] = next;
      sum = fma(vec4<f32>(queries[i]), next, sum);
    }
  }
  partial[thread / 16u][thread % 16u] = sum;
  for (var half = 8u; half > 0u; half /= 2u) {
    workgroupBarrier();
    if (thread / 16u < half) { partial[thread / 16u][thread % 16u] += partial[thread / 16u + half][thread % 16u]; }
  }
  if (thread < 16u && column < vectors) {
    let o = partial[0][thread];
    attended[index * vectors + column] = o;
    gated[index * vectors + column] = o * x[keyAt + 2u * heads * vectors + column];
  }
}
