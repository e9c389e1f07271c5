/**
 * Models in llama.cpp's file format: a llama of any size with weights that the caller gives, and a vocabulary of single
 * characters. The layouts are those of GGUF version 3 and of ggml's blocks.
 *
 * @module
 */

/** How a matrix is stored. */
export type GgmlType = "F32" | "Q8_0" | "Q4_K" | "Q6_K";

/** Number of the type, elements of a block, bytes of a block, and what writes one. */
const TYPES: Record<
  GgmlType,
  {
    readonly id: number;
    readonly size: number;
    readonly bytes: number;
    readonly write: (x: Float32Array, block: DataView) => void;
  }
> = {
  F32: { id: 0, size: 1, bytes: 4, write: ([x], block) => block.setFloat32(0, x, true) },
  Q8_0: { id: 8, size: 32, bytes: 34, write: writeQ8 },
  Q4_K: { id: 12, size: 256, bytes: 144, write: writeQ4K },
  Q6_K: { id: 14, size: 256, bytes: 210, write: writeQ6K },
};

/** Sizes of a llama. Query, key and value have the same number of heads. */
export interface LlamaSizes {
  readonly embed: number;
  readonly layers: number;
  readonly heads: number;
  readonly feedForward: number;
  readonly vocab: number;
  /** Tokens that the file says it was trained on. */
  readonly context: number;
}

/** `<unk>`, `<s>`, `</s>`, and one token for each byte: every SentencePiece vocabulary of llama.cpp begins with them. */
export const SPECIAL_TOKENS = 3 + 256;
/** Ranges of characters that stand for tokens: Han, then Hangul. */
const CHARACTERS = [[0x4E00, 0xA000], [0xAC00, 0xD7A4]] as const;

/** The character of each token from {@linkcode SPECIAL_TOKENS} on. */
export function tokenText(id: number): string {
  let index = id - SPECIAL_TOKENS;
  for (const [first, end] of CHARACTERS) {
    if (index < end - first) return String.fromCodePoint(first + index);
    index -= end - first;
  }
  throw new RangeError(`There is no character for token ${id}`);
}

/**
 * A llama as a GGUF file, in parts. `weight` gives the elements of each tensor, row by row; matrices are `[out, in]`.
 *
 * @param type of all matrices; those of Q4_K have a head of Q6_K, as llama.cpp's own
 */
export function* llamaGguf(
  sizes: LlamaSizes,
  type: Exclude<GgmlType, "Q6_K">,
  weight: (name: string, shape: readonly number[]) => Float32Array,
): Generator<Uint8Array<ArrayBuffer>> {
  const { embed, layers, heads, feedForward, vocab, context } = sizes;
  const tensors: { name: string; shape: number[]; type: GgmlType }[] = [];
  const matrix = (name: string, shape: number[], as: GgmlType = type) =>
    tensors.push({ name, shape, type: as });
  const norm = (name: string) => tensors.push({ name, shape: [embed], type: "F32" });
  matrix("token_embd.weight", [vocab, embed]);
  for (let layer = 0; layer < layers; layer++) {
    const name = (part: string) => `blk.${layer}.${part}.weight`;
    norm(name("attn_norm"));
    for (const part of ["attn_q", "attn_k", "attn_v", "attn_output"]) matrix(name(part), [embed, embed]);
    norm(name("ffn_norm"));
    for (const part of ["ffn_gate", "ffn_up"]) matrix(name(part), [feedForward, embed]);
    matrix(name("ffn_down"), [embed, feedForward]);
  }
  norm("output_norm.weight");
  matrix("output.weight", [vocab, embed], type === "Q4_K" ? "Q6_K" : type);

  const bytesOf = ({ shape, type }: typeof tensors[number]) =>
    shape.reduce((product, n) => product * n, 1) / TYPES[type].size * TYPES[type].bytes;
  const header = new Writer();
  header.text("GGUF", false).u32(3).u64(tensors.length);
  const ids = Array.from({ length: vocab }, (_, id) => id);
  const metadata: [string, (name: string) => void][] = [
    ["general.architecture", (name) => header.string(name, "llama")],
    ["llama.vocab_size", (name) => header.integer(name, vocab)],
    ["llama.context_length", (name) => header.integer(name, context)],
    ["llama.embedding_length", (name) => header.integer(name, embed)],
    ["llama.block_count", (name) => header.integer(name, layers)],
    ["llama.feed_forward_length", (name) => header.integer(name, feedForward)],
    ["llama.attention.head_count", (name) => header.integer(name, heads)],
    ["llama.rope.dimension_count", (name) => header.integer(name, embed / heads)],
    ["llama.attention.layer_norm_rms_epsilon", (name) => header.float(name, EPSILON)],
    ["tokenizer.ggml.model", (name) => header.string(name, "llama")],
    ["tokenizer.ggml.tokens", (name) => header.strings(name, ids.map(pieceOf))],
    ["tokenizer.ggml.scores", (name) => header.floats(name, ids.map(() => 0))],
    ["tokenizer.ggml.token_type", (name) => header.integers(name, ids.map(kindOf))],
    ["tokenizer.ggml.unknown_token_id", (name) => header.integer(name, 0)],
    ["tokenizer.ggml.bos_token_id", (name) => header.integer(name, 1)],
    ["tokenizer.ggml.eos_token_id", (name) => header.integer(name, 2)],
    ["tokenizer.ggml.add_bos_token", (name) => header.boolean(name, false)],
    ["tokenizer.ggml.add_space_prefix", (name) => header.boolean(name, false)],
  ];
  header.u64(metadata.length);
  for (const [name, write] of metadata) write(name);
  let offset = 0;
  for (const tensor of tensors) {
    header.text(tensor.name).u32(tensor.shape.length);
    for (const n of tensor.shape.toReversed()) header.u64(n);
    header.u32(TYPES[tensor.type].id).u64(offset);
    offset += aligned(bytesOf(tensor));
  }
  yield header.bytes(aligned(header.length));
  for (const tensor of tensors) {
    const bytes = new Uint8Array(aligned(bytesOf(tensor)));
    encode(weight(tensor.name, tensor.shape), tensor.type, bytes);
    yield bytes;
  }
}

/** Of the root mean square in every norm. */
export const EPSILON = 1e-5;
const ALIGNMENT = 32;

function aligned(bytes: number): number {
  return Math.ceil(bytes / ALIGNMENT) * ALIGNMENT;
}

function pieceOf(id: number): string {
  if (id < 3) return ["<unk>", "<s>", "</s>"][id];
  if (id < SPECIAL_TOKENS) return `<0x${(id - 3).toString(16).toUpperCase().padStart(2, "0")}>`;
  return tokenText(id);
}

/** Kinds of tokens: 1 text, 2 unknown, 3 control, 6 byte. */
function kindOf(id: number): number {
  if (id >= SPECIAL_TOKENS) return 1;
  return id >= 3 ? 6 : id === 0 ? 2 : 3;
}

/** Values as the file has them: little-endian, lengths before what they are of. */
class Writer {
  #view = new DataView(new ArrayBuffer(2 ** 16));
  length = 0;

  bytes(length: number): Uint8Array<ArrayBuffer> {
    return new Uint8Array(this.#view.buffer.slice(0, this.#room(length - this.length)), 0, length);
  }

  u32(value: number): this {
    const at = this.#take(4);
    this.#view.setUint32(at, value, true);
    return this;
  }

  u64(value: number): this {
    const at = this.#take(8);
    this.#view.setBigUint64(at, BigInt(value), true);
    return this;
  }

  text(text: string, withLength = true): this {
    const bytes = new TextEncoder().encode(text);
    if (withLength) this.u64(bytes.length);
    const at = this.#take(bytes.length);
    new Uint8Array(this.#view.buffer).set(bytes, at);
    return this;
  }

  // Each of the following is an entry of the metadata: name, number of its type, value.
  integer(name: string, value: number): void {
    this.text(name).u32(4).u32(value);
  }

  float(name: string, value: number): void {
    this.text(name).u32(6).#f32(value);
  }

  boolean(name: string, value: boolean): void {
    this.text(name).u32(7);
    const at = this.#take(1);
    this.#view.setUint8(at, Number(value));
  }

  string(name: string, value: string): void {
    this.text(name).u32(8).text(value);
  }

  integers(name: string, values: readonly number[]): void {
    this.text(name).u32(9).u32(5).u64(values.length);
    for (const value of values) this.u32(value);
  }

  floats(name: string, values: readonly number[]): void {
    this.text(name).u32(9).u32(6).u64(values.length);
    for (const value of values) this.#f32(value);
  }

  strings(name: string, values: readonly string[]): void {
    this.text(name).u32(9).u32(8).u64(values.length);
    for (const value of values) this.text(value);
  }

  #f32(value: number): void {
    const at = this.#take(4);
    this.#view.setFloat32(at, value, true);
  }

  /** Where the next `bytes` go. */
  #take(bytes: number): number {
    this.#room(bytes);
    this.length += bytes;
    return this.length - bytes;
  }

  /** Makes room for so many bytes more, and returns how many there are then. */
  #room(bytes: number): number {
    const { buffer } = this.#view;
    if (this.length + bytes > buffer.byteLength) {
      this.#view = new DataView(buffer.transfer(2 * buffer.byteLength + bytes));
    }
    return this.#view.byteLength;
  }
}

/** Writes elements in blocks. */
function encode(x: Float32Array, type: GgmlType, bytes: Uint8Array<ArrayBuffer>): void {
  if (type === "F32") {
    new Float32Array(bytes.buffer).set(x);
    return;
  }
  const { size, bytes: width, write } = TYPES[type];
  for (let block = 0; block * size < x.length; block++) {
    write(x.subarray(block * size, (block + 1) * size), new DataView(bytes.buffer, block * width, width));
  }
}

function largest(x: Float32Array): number {
  return x.reduce((most, value) => Math.max(most, Math.abs(value)), 0);
}

/** Steps of `step` to a value, from `least` to `most`; none of a step of 0. */
function steps(value: number, step: number, least: number, most: number): number {
  return step === 0 ? 0 : Math.min(most, Math.max(least, Math.round(value / step)));
}

/** 32 integers of 8 bits, after a scale in 16. */
function writeQ8(x: Float32Array, block: DataView): void {
  const scale = largest(x) / 127;
  block.setFloat16(0, scale, true);
  for (let i = 0; i < 32; i++) block.setInt8(2 + i, steps(x[i], scale, -127, 127));
}

/**
 * 8 parts of 32: an element is `d·scale·q − dMin·min` with q of 4 bits, scale and min of 6 bits per part, d and dMin in 16
 * bits. Bytes: d, dMin, 12 of scales and minima, 128 of q.
 */
function writeQ4K(x: Float32Array, block: DataView): void {
  const parts = Array.from({ length: 8 }, (_, part) => {
    const own = x.subarray(32 * part, 32 * part + 32);
    const min = Math.max(0, own.reduce((least, value) => Math.max(least, -value), -Infinity));
    const most = own.reduce((most, value) => Math.max(most, value), -Infinity);
    return { own, min, scale: (most + min) / 15 };
  });
  const d = Math.max(...parts.map(({ scale }) => scale)) / 63;
  const dMin = Math.max(...parts.map(({ min }) => min)) / 63;
  block.setFloat16(0, d, true);
  block.setFloat16(2, dMin, true);
  const add = (at: number, bits: number) => block.setUint8(at, block.getUint8(at) | bits);
  parts.forEach(({ own, min, scale }, part) => {
    const scaleSteps = steps(scale, d, 0, 63), minSteps = steps(min, dMin, 0, 63);
    if (part < 4) {
      add(4 + part, scaleSteps);
      add(8 + part, minSteps);
    } else {
      // Four bits of each in a byte, the upper two where those of the first four parts have room.
      add(8 + part, scaleSteps & 15 | (minSteps & 15) << 4);
      add(part, scaleSteps >> 4 << 6);
      add(4 + part, minSteps >> 4 << 6);
    }
    own.forEach((value, i) => {
      const q = steps(value + dMin * minSteps, d * scaleSteps, 0, 15);
      add(16 + 32 * (part >> 1) + i, part % 2 === 0 ? q : q << 4);
    });
  });
}

/**
 * 16 parts of 16: an element is `d·scale·(q − 32)` with q of 6 bits, scale of 8 bits per part, d in 16 bits. Bytes: 128 of
 * lower halves of q, 64 of their upper two bits, 16 scales, d.
 */
function writeQ6K(x: Float32Array, block: DataView): void {
  const scales = Array.from({ length: 16 }, (_, part) => largest(x.subarray(16 * part, 16 * part + 16)) / 31);
  const d = Math.max(...scales) / 127;
  block.setFloat16(208, d, true);
  const add = (at: number, bits: number) => block.setUint8(at, block.getUint8(at) | bits);
  scales.forEach((scale, part) => {
    const scaleSteps = steps(scale, d, 0, 127);
    block.setInt8(192 + part, scaleSteps);
    for (let i = 16 * part; i < 16 * part + 16; i++) {
      const q = steps(x[i], d * scaleSteps, -31, 31) + 32;
      // Each half of the block: four runs of 32 elements share 64 bytes of lower halves and 32 of upper bits.
      const half = i >> 7, run = i >> 5 & 3, at = i & 31;
      add(64 * half + 32 * (run & 1) + at, run < 2 ? q & 15 : (q & 15) << 4);
      add(128 + 32 * half + at, q >> 4 << 2 * run);
    }
  });
}
