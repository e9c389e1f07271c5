import assert from "node:assert/strict";
import fc from "fast-check";
import {
  type ByteReader,
  decodeSafetensors,
  encodeSafetensors,
  openSafetensors,
  toFloat32,
} from "../model/safetensors.ts";
import { PIECE_BYTES } from "../model/stored.ts";
import { concat, textFile } from "./reference_model.ts";

/** A file of a given header text, followed by `data` bytes of zeros; `length` lies about the header's length. */
function file(header: string | Uint8Array, data = 0, length?: bigint): Uint8Array<ArrayBuffer> {
  const json = typeof header === "string" ? textFile(header) : header;
  const prefix = new Uint8Array(8);
  new DataView(prefix.buffer).setBigUint64(0, length ?? BigInt(json.length), true);
  return concat([prefix, json, new Uint8Array(data)]);
}

/** A reader of bytes in memory that gives at most `most` per inner read. */
function readerOf(bytes: Uint8Array, size: number | undefined = bytes.length): ByteReader {
  let position = 0;
  return {
    size,
    read(target) {
      const part = bytes.subarray(position, position + target.length);
      target.set(part);
      position += part.length;
      return Promise.resolve(part.length);
    },
    close: () => Promise.resolve(),
  };
}

async function readAll(bytes: Uint8Array, size?: number): Promise<Map<string, Uint8Array>> {
  const file = await openSafetensors({ ...readerOf(bytes), size }, "f");
  const found = new Map<string, Uint8Array>();
  for await (const { tensor, begin, bytes } of file.read(() => true)) {
    assert.equal(begin, found.get(tensor.name)?.length ?? 0, "pieces come in order");
    found.set(tensor.name, concat([found.get(tensor.name) ?? new Uint8Array(0), bytes]));
  }
  return found;
}

const tensor = (offsets: unknown, shape: unknown = [1], dtype: unknown = "F32") =>
  JSON.stringify({ a: { dtype, shape, data_offsets: offsets } });

const hostile: [what: string, bytes: Uint8Array<ArrayBuffer>, message: RegExp][] = [
  ["nothing", new Uint8Array(0), /at least 8 bytes|must not end before 8/],
  ["seven bytes", new Uint8Array(7), /at least 8 bytes|must not end before 8/],
  ["a header longer than the file", file("{}", 0, 100n), /the header must be at most 2 bytes long/],
  ["an absurd header length", file("{}", 0, 2n ** 64n - 1n), /the header must be at most 2 bytes long/],
  ["a length beyond 2^53", file("{}", 0, 2n ** 53n + 1n), /current value is 9007199254740993/],
  ["no header", file(""), /must be JSON in UTF-8/],
  ["no JSON", file("{nonsense"), /must be JSON in UTF-8/],
  ["no UTF-8", file(Uint8Array.of(0x7b, 0xff, 0x7d)), /must be JSON in UTF-8/],
  ["an array", file("[]"), /must be a JSON object/],
  ["null", file("null"), /must be a JSON object/],
  ["deep nesting", file("[".repeat(200_000)), /must be JSON in UTF-8/],
  ["a tensor that is a number", file(`{"a":1}`), /every tensor must be described by an object/],
  ["metadata of numbers", file(`{"__metadata__":{"x":1}}`), /__metadata__ must map names to strings/],
  ["offsets outside the file", file(tensor([0, 4]), 3), /the file must hold 4 bytes/],
  ["bytes without a tensor", file(tensor([0, 4]), 5), /the file must hold 4 bytes/],
  ["a hole at the beginning", file(tensor([4, 8]), 8), /the next tensor begins at 0: current value is 4/],
  ["falling offsets", file(tensor([8, 4]), 8), /two integers >= 0, non-decreasing/],
  ["negative offsets", file(tensor([-4, 0]), 0), /two integers >= 0, non-decreasing/],
  ["fractions", file(tensor([0.5, 4.5]), 4), /two integers >= 0/],
  ["offsets beyond 2^53", file(`{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,1e300]}}`), /two integers/],
  ["three offsets", file(tensor([0, 4, 8]), 8), /two integers >= 0/],
  ["no offsets", file(tensor(undefined)), /two integers >= 0/],
  ["a shape that needs more", file(tensor([0, 4], [2]), 4), /must span 8 bytes/],
  ["a shape that needs less", file(tensor([0, 4], []), 4).slice(0, -4), /the file must hold 4 bytes/],
  [
    "a shape that overflows",
    file(tensor([0, 0], [2 ** 32, 2 ** 32]), 0),
    /must span 7378697629483\d+ bytes/,
  ],
  [
    "a shape that overflows to zero",
    file(tensor([0, 4], [2 ** 53 - 1, 2 ** 53 - 1, 2 ** 53 - 1]), 4),
    /must span/,
  ],
  ["a negative dimension", file(tensor([0, 4], [-1]), 4), /shape must be an array of integers >= 0/],
  ["a shape of strings", file(tensor([0, 4], ["1"]), 4), /shape must be an array of integers/],
  ["no shape", file(`{"a":{"dtype":"F32","data_offsets":[0,4]}}`, 4), /shape must be an array/],
  ["a dtype that is a number", file(tensor([0, 4], [1], 7), 4), /dtype must be a string/],
  ["an unknown dtype beyond the file", file(tensor([0, 8], [1], "F31"), 4), /the file must hold 8 bytes/],
  ["an unknown dtype behind a hole", file(tensor([4, 8], [1], "F31"), 8), /must leave no hole/],
  ["half a byte", file(tensor([0, 2], [3], "F4"), 2), /data_offsets must span 1\.5 bytes/],
  [
    "overlapping tensors",
    file(
      `{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"b":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}}`,
      8,
    ),
    /leave no hole and not overlap: the next tensor begins at 8: current value is 4 \(tensor "b" of/,
  ],
  [
    "a hole between tensors",
    file(
      `{"a":{"dtype":"U8","shape":[2],"data_offsets":[0,2]},"b":{"dtype":"U8","shape":[1],"data_offsets":[3,4]}}`,
      4,
    ),
    /the next tensor begins at 2: current value is 3/,
  ],
];

for (const [what, bytes, message] of hostile) {
  Deno.test(`hostile safetensors: ${what}`, async () => {
    const check = (error: Error) => {
      assert.equal(error.name, "RangeError", error.message);
      assert.match(error.message, /^Cannot run readSafetensors as /);
      assert.match(error.message, message);
      return true;
    };
    assert.throws(() => decodeSafetensors(bytes), check);
    await assert.rejects(readAll(bytes, bytes.length), check);
    await assert.rejects(readAll(bytes), { name: "RangeError" }, "of unknown length");
  });
}

Deno.test("no sequence of bytes does more than throw a RangeError", () => {
  const whole = encodeSafetensors([
    { name: "a", shape: [2, 3], data: new Float32Array(6) },
    { name: "b", shape: [], data: new Float32Array(1) },
  ]);
  const damaged = fc.array(fc.tuple(fc.nat(whole.length - 1), fc.nat(255)), { minLength: 1, maxLength: 4 });
  const read = (bytes: Uint8Array<ArrayBuffer>) => {
    try {
      for (const { shape, bytes: data } of decodeSafetensors(bytes).tensors.values()) {
        assert(data.length <= bytes.length && shape.every((n) => n >= 0));
      }
    } catch (error) {
      assert(error instanceof RangeError, String(error));
    }
  };
  fc.assert(
    fc.property(damaged, (changes) => {
      const bytes = whole.slice();
      for (const [at, value] of changes) bytes[at] = value;
      read(bytes);
    }),
    { numRuns: 1000 },
  );
  fc.assert(fc.property(fc.nat(whole.length), (length) => read(whole.slice(0, length))));
  fc.assert(fc.property(fc.uint8Array({ maxLength: 64 }), (bytes) => read(Uint8Array.from(bytes))));
});

Deno.test("what is written is read, in memory and as a stream", async () => {
  const a = Float32Array.of(1, -0, NaN, Infinity, 1e-45, 3.4e38), b = new Float32Array(0);
  const bytes = encodeSafetensors(
    [{ name: "a", shape: [2, 3], data: a }, { name: "__proto__", shape: [0, 5], data: b }],
    { format: "pt" },
  );
  const { tensors, metadata } = decodeSafetensors(bytes);
  assert.deepEqual({ ...metadata }, { format: "pt" });
  assert.deepEqual(tensors.get("a")!.shape, [2, 3]);
  const read = toFloat32("F32", tensors.get("a")!.bytes, "a");
  assert.deepEqual(new Uint32Array(read.slice().buffer), new Uint32Array(a.buffer));
  const whole = new Map([...tensors].map(([name, { bytes }]) => [name, bytes.slice()]));
  assert.deepEqual(await readAll(bytes, bytes.length), whole);
  assert.deepEqual(await readAll(bytes), whole, "of unknown length");
});

Deno.test("a large tensor comes in pieces, and tensors that nobody wants are passed over", async () => {
  const data = Float32Array.from({ length: PIECE_BYTES / 2 + 3 }, (_, i) => i);
  const bytes = encodeSafetensors(["a", "b", "c"].map((name) => ({ name, shape: [data.length], data })));
  const file = await openSafetensors(readerOf(bytes), "f");
  const seen: [name: string, begin: number, length: number][] = [];
  for await (const { tensor, begin, bytes } of file.read(({ name }) => name !== "b")) {
    seen.push([tensor.name, begin, bytes.length]);
    assert.equal(toFloat32("F32", bytes, "it")[2], begin / 4 + 2);
  }
  const pieces = [[0, PIECE_BYTES], [PIECE_BYTES, PIECE_BYTES], [2 * PIECE_BYTES, 12]] as const;
  assert.deepEqual(seen, ["a", "c"].flatMap((name) => pieces.map((piece) => [name, ...piece])));
});

Deno.test("a scalar has an empty shape", () => {
  const bytes = file(tensor([0, 4], []), 4);
  assert.deepEqual(decodeSafetensors(bytes).tensors.get("a")!.shape, []);
});

Deno.test("F16: every bit pattern", () => {
  const half = Uint16Array.from({ length: 65536 }, (_, i) => i);
  const view = new DataView(half.buffer);
  const values = toFloat32("F16", new Uint8Array(half.buffer), "all");
  values.forEach((value, i) => assert(Object.is(value, view.getFloat16(2 * i, true)), `pattern ${i}`));
});

Deno.test("BF16: every bit pattern, into memory that is reused", () => {
  const patterns = Uint16Array.from({ length: 65536 }, (_, i) => i);
  const memory = new Float32Array(65536 + 5).fill(NaN);
  for (const length of [65536, 5, 1, 0]) {
    const values = toFloat32("BF16", new Uint8Array(patterns.buffer, 0, 2 * length), "all", memory);
    assert.equal(values.buffer, memory.buffer);
    const bits = new Uint32Array(values.buffer, values.byteOffset, values.length);
    assert.equal(bits.length, length);
    bits.forEach((word, i) => assert.equal(word, patterns[i] * 65536));
  }
});

Deno.test("BF16: the upper half of an f32, at any alignment", () => {
  const bytes = new Uint8Array(1 + 6);
  const view = new DataView(bytes.buffer);
  [0x3f80, 0xc040, 0x7f80].forEach((bits, i) => view.setUint16(1 + 2 * i, bits, true));
  assert.deepEqual([...toFloat32("BF16", bytes.subarray(1), "x")], [1, -3, Infinity]);
});

Deno.test("weights of other types are refused", () => {
  assert.throws(() => toFloat32("I32", new Uint8Array(4), `tensor "a"`), {
    name: "TypeError",
    message:
      `Cannot run readSafetensors as dtype of weights must be F32, F16 or BF16: current value is "I32" (tensor "a")`,
  });
});

Deno.test("types that are not used need not be known, and metadata may be null", () => {
  const types = ["C64", "F8_E8M0", "F4", "F6_E2M3", "E3M0_OF_2031", "constructor"];
  const spans = [16, 2, 1, 3, 5, 1]; // of 2 elements, of 4 of F6; the last two are anybody's guess
  let end = 0;
  const header = Object.fromEntries(types.map((dtype, i) => {
    const begin = end;
    end += spans[i];
    return [dtype, { dtype, shape: [dtype.startsWith("F6") ? 4 : 2], data_offsets: [begin, end] }];
  }));
  const { tensors, metadata } = decodeSafetensors(
    file(JSON.stringify({ __metadata__: null, ...header }), end),
  );
  assert.deepEqual([...tensors.keys()], types);
  assert.deepEqual({ ...metadata }, {});
  const { dtype, bytes } = tensors.get("E3M0_OF_2031")!;
  assert.throws(() => toFloat32(dtype, bytes, "it"), /dtype of weights must be F32, F16 or BF16/);
});
