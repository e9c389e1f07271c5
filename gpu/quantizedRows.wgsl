// Rows of a quantised weight: output[i] = table[ids[i]] · scale (BY_ID), or all bound rows in order. One thread per
// element. The bound rows of the table begin at `first`; ids outside them belong to another dispatch.

// import folded.wgsl

override BITS: u32;
override GROUP: u32;
override BY_ID: bool;

struct Parameters {
  size: u32,     // elements of the output
  inDim: u32,
  words: u32,    // of a row of the table: integers, and from scalesAt scales
  scalesAt: u32,
  first: u32,
  rows: u32,     // bound rows of the table
  scale: f32,
}

@group(0) @binding(0) var<storage, read> table: array<u32>; // [rows, words]
@group(0) @binding(1) var<storage, read> ids: array<u32>; // [size / inDim]
@group(0) @binding(2) var<storage, read_write> output: array<Output>; // [size / inDim, inDim]
@group(1) @binding(0) var<uniform> parameters: Parameters;

@compute @workgroup_size(256)
fn main(
  @builtin(workgroup_id) workgroup: vec3u,
  @builtin(num_workgroups) workgroups: vec3u,
  @builtin(local_invocation_index) thread: u32,
) {
  let i = folded(workgroup, workgroups) * 256u + thread;
  if (i >= parameters.size) { return; }
  var row = i / parameters.inDim;
  if (BY_ID) { row = ids[row] - parameters.first; } // wraps to above `rows` if the id is below `first`
  if (row >= parameters.rows) { return; }
  let column = i % parameters.inDim;
  let words = row * parameters.words;
  let bit = column * BITS % 32u;
  let bits = table[words + column * BITS / 32u];
  // 8 bits are signed, 4 bits have 8 added.
  let integer = select(i32((bits >> bit) & 15u) - 8, i32(bits << (24u - min(bit, 24u))) >> 24u, BITS == 8u);
  let group = column / GROUP;
  let pair = table[words + parameters.scalesAt + group / 2u];
  let scale = bitcast<f32>(select(pair << 16u, pair & 0xffff0000u, group % 2u == 1u));
  output[i] = Output(f32(integer) * (scale * parameters.scale));
}
