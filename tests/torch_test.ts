import assert from "node:assert/strict";
import fc from "fast-check";
import { toFloat32 } from "../model/safetensors.ts";
import { PIECE_BYTES } from "../model/stored.ts";
import { randomAccess } from "../model/ranges.ts";
import { openTorch } from "../model/torch.ts";
import { concat } from "./reference_model.ts";
import { torchFile, torchPickle, type TorchStorage, type TorchTensor, zipFile } from "./torch_files.ts";

/** Reads a file that is in memory. Whatever is allocated for bytes of the file is no larger than the file. */
async function readTorch(file: Uint8Array): Promise<Map<string, Uint8Array>> {
  const reader = {
    size: file.length,
    read: () => Promise.reject(new Error("a file that can be read anywhere is not read in order")),
    readAt(position: number, target: Uint8Array) {
      assert(target.length <= file.length, `${target.length} bytes are asked for together`);
      const part = file.subarray(position, position + target.length);
      target.set(part);
      return Promise.resolve(part.length);
    },
    close: () => Promise.resolve(),
  };
  const opened = await openTorch(reader, "f.bin");
  const found = new Map<string, Uint8Array>();
  for await (const { tensor, begin, bytes } of opened.read(() => true)) {
    assert(tensor.byteLength <= file.length && bytes.length <= file.length);
    assert.equal(begin, found.get(tensor.name)?.length ?? 0, "pieces come in order");
    found.set(tensor.name, concat([found.get(tensor.name) ?? new Uint8Array(0), bytes]));
  }
  for (const { name, byteLength } of opened.tensors) assert.equal(found.get(name)!.length, byteLength);
  return found;
}

const ITEM_BYTES: Readonly<Record<string, number>> = { Float: 4, BFloat16: 2, Half: 2, Double: 8, Bool: 1 };

/** A storage whose elements are all different, as far as their bytes allow. */
function storage(type: string, length: number): TorchStorage {
  const bytes = new Uint8Array(length * ITEM_BYTES[type]);
  for (let i = 0; i < bytes.length; i++) bytes[i] = Math.imul(i + 1, 0x9e3779b1) >>> 16;
  return { type, bytes, length };
}

/** The elements of a view, one by one. */
function elements({ shape, strides, offset }: TorchTensor, { type, bytes }: TorchStorage): Uint8Array {
  const size = ITEM_BYTES[type], count = shape.reduce((product, n) => product * n, 1);
  const result = new Uint8Array(count * size);
  for (let i = 0; i < count; i++) {
    let at = offset;
    for (let axis = shape.length - 1, rest = i; axis >= 0; axis--) {
      at += rest % shape[axis] * strides[axis];
      rest = Math.floor(rest / shape[axis]);
    }
    result.set(bytes.subarray(at * size, (at + 1) * size), i * size);
  }
  return result;
}

/** A view of a storage in any order of dimensions, with steps and an offset, and a storage that holds it. */
const view = fc.record({
  type: fc.constantFrom(...Object.keys(ITEM_BYTES)),
  shape: fc.array(fc.integer({ min: 0, max: 6 }), { maxLength: 4 }),
  order: fc.array(fc.nat(1000), { minLength: 4, maxLength: 4 }),
  step: fc.integer({ min: 1, max: 3 }),
  offset: fc.nat(5),
  more: fc.nat(3),
}).map(({ type, shape, order, step, offset, more }) => {
  const axes = shape.map((_, axis) => axis).sort((a, b) => order[a] - order[b]);
  const strides = shape.map(() => 0);
  let stride = step;
  for (const axis of axes) {
    strides[axis] = stride;
    stride *= Math.max(1, shape[axis]);
  }
  return { tensor: { storage: "0", shape, strides, offset }, storage: storage(type, offset + stride + more) };
});

Deno.test("views: any order of dimensions, steps, offsets and shared storages", async () => {
  await fc.assert(
    fc.asyncProperty(fc.array(view, { minLength: 1, maxLength: 4 }), fc.boolean(), async (views, shared) => {
      const tensors = new Map<string, TorchTensor>(), storages = new Map<string, TorchStorage>();
      const expected = new Map<string, Uint8Array>();
      views.forEach(({ tensor, storage }, i) => {
        tensors.set(`t${i}`, { ...tensor, storage: `${i}` });
        storages.set(`${i}`, storage);
        expected.set(`t${i}`, elements(tensor, storage));
        if (!shared) return;
        const flat = { storage: `${i}`, shape: [storage.length], strides: [1], offset: 0 };
        tensors.set(`s${i}`, flat);
        expected.set(`s${i}`, elements(flat, storage));
      });
      const found = await readTorch(torchFile(tensors, storages));
      assert.deepEqual(new Map([...found].sort()), new Map([...expected].sort()));
    }),
  );
});

Deno.test("views larger than a piece: in order, transposed, every other column", async () => {
  const rows = 700, width = 1200;
  const whole = storage("Half", rows * width);
  assert(whole.bytes.length > PIECE_BYTES);
  const tensors = new Map<string, TorchTensor>([
    ["whole", { storage: "0", shape: [rows, width], strides: [width, 1], offset: 0 }],
    ["transposed", { storage: "0", shape: [width, rows], strides: [1, width], offset: 0 }],
    ["columns", { storage: "0", shape: [rows, width / 2], strides: [width, 2], offset: 1 }],
    ["exchanged", { storage: "0", shape: [100, 1200, 7], strides: [1200, 1, 120_000], offset: 0 }],
  ]);
  const found = await readTorch(torchFile(tensors, new Map([["0", whole]])));
  for (const [name, tensor] of tensors) assert.deepEqual(found.get(name), elements(tensor, whole), name);
});

Deno.test("element types: F32, F16 and BF16 as they are, others by their names", async () => {
  const types = { Float: "F32", BFloat16: "BF16", Half: "F16", Double: "F64", Bool: "BOOL" };
  const file = torchFile(
    new Map(Object.keys(types).map((type) => [type, { storage: type, shape: [3], strides: [1], offset: 0 }])),
    new Map(Object.keys(types).map((type) => [type, storage(type, 3)])),
  );
  const reader = {
    size: file.length,
    read: () => Promise.resolve(0),
    readAt(position: number, target: Uint8Array) {
      target.set(file.subarray(position, position + target.length));
      return Promise.resolve(target.length);
    },
    close: () => Promise.resolve(),
  };
  const { tensors } = await openTorch(reader, "f.bin");
  assert.deepEqual(Object.fromEntries(tensors.map(({ name, dtype }) => [name, dtype])), types);
  const bytes = (await readTorch(file)).get("BFloat16")! as Uint8Array<ArrayBuffer>;
  assert.equal(toFloat32("BF16", bytes, "it").length, 3);
});

const scalar = { storage: "0", shape: [], strides: [], offset: 0 };
const one = new Map([["0", storage("Float", 1)]]);
/** Characters as bytes. */
const text = (value: string) => Uint8Array.from(value, (character) => character.charCodeAt(0));
/** A number as a pickle has it. */
const int = (value: number) =>
  `J${String.fromCharCode(value & 255, value >> 8 & 255, value >> 16 & 255, value >> 24 & 255)}`;
const withPickle = (pickle: Uint8Array, folder = "m") =>
  zipFile(new Map([[`${folder}/data.pkl`, pickle], [`${folder}/data/0`, one.get("0")!.bytes]]));
const repeated = { storage: "0", shape: [2 ** 30], strides: [0], offset: 0 };

const refused: [what: string, file: Uint8Array, message: RegExp][] = [
  ["nothing", new Uint8Array(0), /whole zip archive/],
  ["no pickle", zipFile(new Map([["m/data/0", new Uint8Array(4)]])), /one folder with data\.pkl/],
  ["no pickle in the first folder", withPickle(text("N."), "a/b"), /one folder with data\.pkl/],
  ["a record of local bytes elsewhere", withPickle(text("N.")).slice(4), /zip archive|records must lie/],
  [
    "elements that are shown many times",
    torchFile(new Map([["a", repeated]]), one),
    /at most the 1 elements/,
  ],
  [
    "more dimensions than a tensor has",
    torchFile(new Map([["a", { ...scalar, shape: Array(65).fill(1), strides: Array(65).fill(0) }]]), one),
    /at most 64 integers/,
  ],
  [
    "more tensors than a list may have",
    withPickle(text(`}(${Array.from({ length: 2 ** 17 + 1 }, (_, i) => `${int(i)}K\x01`).join("")}u.`)),
    /at most 131072 tensors: current value is 131073/,
  ],
  ["a pickle beyond all lists", withPickle(new Uint8Array(2 ** 26 + 1)), /data\.pkl must have at most/],
  ["no dictionary", withPickle(text("N.")), /must hold a dictionary of tensors/],
  ["a value that is no tensor", withPickle(text("}X\x01\0\0\0aK\x01s.")), /tensor "a" of f\.bin/],
  ["a name that is a number", withPickle(text("}K\x01K\x01s.")), /names of tensors must be strings/],
  ["an empty pickle", withPickle(new Uint8Array(0)), /pickle must not end before 1 more bytes/],
  ["an empty stack", withPickle(text(".")), /take only values that it made/],
  ["a mark taken as a value", withPickle(text("(.")), /take only values that it made/],
  ["a tuple without a mark", withPickle(text("t")), /mark what it takes together/],
  [
    "values of a tuple that are not there",
    withPickle(text("K\x01\x87")),
    /known instructions|take only values/,
  ],
  [
    "a memory that was not written",
    withPickle(text("h\x07.")),
    /recall what it remembered: current value is 7/,
  ],
  ["an unknown instruction", withPickle(text("i.")), /known instructions only: current value is 105/],
  ["protocol 0", withPickle(Uint8Array.of(0x80, 0)), /protocol must be 2 to 5/],
  ["a string beyond the end", withPickle(text("X\xff")), /must not end before 4 more bytes/],
  ["a line without an end", withPickle(text("ctorch")), /must end its lines/],
  ["a call of a class", withPickle(text("ctorch\nFloatStorage\n)R.")), /must call what is known/],
  ["a call of a number", withPickle(text("K\x01)R.")), /must call what is known/],
  ["attributes of a number", withPickle(text("K\x01K\x02b.")), /attributes to dictionaries only/],
  ["an object's name", withPickle(text("c__proto__\ntoString\n.")), /must name nothing but/],
  ["a class that is made", withPickle(text("ccollections\nOrderedDict\n)\x81.")), /known instructions only/],
];

for (const [what, file, message] of refused) {
  Deno.test(`hostile PyTorch files: ${what}`, async () => {
    await assert.rejects(readTorch(file), (error: Error) => {
      assert(error instanceof RangeError, String(error));
      assert.match(error.message, /^Cannot run readTorch as .*f\.bin/);
      assert.match(error.message, message);
      return true;
    });
  });
}

Deno.test("hostile PyTorch files: lists of lists that would take forever to print", async () => {
  // A list of eight, each of which is one of eight, ...: 40 levels, of which a message must show one.
  const bomb = concat([
    text("]q\0"),
    ...Array.from({ length: 40 }, (_, i) => {
      const [last, next] = [i, i + 1].map((index) => String.fromCharCode(index));
      return text(`0](${`h${last}`.repeat(8)}eq${next}`);
    }),
  ]);
  const storageOf = (length: Uint8Array) =>
    concat([
      text("(X\x07\0\0\0storagectorch\nFloatStorage\nX\x01\0\0\x000X\x03\0\0\0cpu"),
      length,
      text("tQ"),
    ]);
  const sound = storageOf(text("K\x01"));
  const tensorOf = (...values: Uint8Array[]) =>
    concat([text("}X\x01\0\0\0actorch._utils\n_rebuild_tensor_v2\n("), ...values, text("tRs.")]);
  const [zero, none] = [text("K\0"), text(")")];
  const pickles = [
    bomb,
    concat([bomb, text("X\x01\0\0\0a\x93")]),
    concat([text("X\x01\0\0\0a"), bomb, text("\x93")]),
    concat([bomb, text("Q.")]),
    concat([text("}X\x01\0\0\0a"), bomb, text("s.")]),
    concat([text("}"), bomb, text("K\x01s.")]),
    tensorOf(bomb),
    tensorOf(concat([bomb, text("Q")]), zero, none, none),
    tensorOf(storageOf(bomb), zero, none, none),
    tensorOf(sound, bomb, none, none),
    tensorOf(sound, zero, bomb, none),
    tensorOf(sound, zero, none, bomb),
    tensorOf(sound, zero, concat([text("("), bomb, text("t")]), none),
  ];
  for (const pickle of pickles) {
    await assert.rejects(readTorch(withPickle(pickle)), /^RangeError: Cannot run readTorch as .{1,400}$/);
  }
  assert.equal((await readTorch(withPickle(tensorOf(sound, zero, none, none)))).get("a")!.length, 4);
});

Deno.test("names such as __proto__ are names like any other", async () => {
  const found = await readTorch(torchFile(new Map([["__proto__", scalar], ["constructor", scalar]]), one));
  assert.deepEqual([...found.keys()], ["__proto__", "constructor"]);
});

Deno.test("a parameter is its data", async () => {
  const pickle = torchPickle(new Map([["a", scalar]]), one);
  // `(data, True, hooks)` given to `_rebuild_parameter`: around the call that makes the data.
  const at = new TextDecoder("latin1").decode(pickle).indexOf("ctorch._utils");
  const parameter = concat([
    pickle.subarray(0, at),
    text("ctorch._utils\n_rebuild_parameter\n("),
    pickle.subarray(at, -2),
    Uint8Array.of(0x88),
    text("NtR"),
    pickle.subarray(-2),
  ]);
  const found = await readTorch(withPickle(parameter));
  assert.deepEqual(found.get("a"), one.get("0")!.bytes);
});

/** Reads, or fails with an error of the library. */
async function judge(bytes: Uint8Array): Promise<void> {
  try {
    await readTorch(bytes);
  } catch (error) {
    assert(error instanceof RangeError && /^Cannot run readTorch as /.test(error.message), String(error));
  }
}

Deno.test("truncated and damaged files end, take no more than they hold, and fail with the library's error", async () => {
  const hostile = new URL("golden/published/hostile/", import.meta.url);
  for (const name of ["control", "zip64", "torch_1_zip"]) {
    const whole = await Deno.readFile(new URL(`${name}.bin`, hostile));
    // Most of a file is elements, where a flip changes a number. What can go wrong is told by the rest.
    const places = [...whole.keys()].filter((at) => at < 2700 || at > 33_000 || at % 4096 < 64);
    const changes = fc.array(fc.tuple(fc.constantFrom(...places), fc.nat(255)), {
      minLength: 1,
      maxLength: 6,
    });
    const property = fc.asyncProperty(changes, fc.integer({ min: 0, max: 3000 }), async (changes, cut) => {
      const bytes = whole.slice(0, cut > 1500 ? whole.length : whole.length - 20 * cut);
      for (const [at, value] of changes) bytes[at] = value;
      await judge(bytes);
    });
    await fc.assert(property, { numRuns: 400 });
    await fc.assert(
      fc.asyncProperty(fc.nat(whole.length), (length) => judge(whole.slice(0, length))),
      { numRuns: 200 },
    );
  }
});

Deno.test("a host without files keeps in a Blob what cannot be read anywhere", async () => {
  const bytes = Uint8Array.from({ length: 3_000_001 }, (_, i) => i * 7 >> 3);
  let at = 0, closed = 0;
  const reader = {
    size: undefined,
    read(target: Uint8Array) {
      const part = bytes.subarray(at, at + target.length);
      target.set(part);
      at += part.length;
      return Promise.resolve(part.length);
    },
    close: () => Promise.resolve(void closed++),
  };
  const { process } = globalThis as unknown as { process: { getBuiltinModule?: unknown } };
  const { getBuiltinModule } = process;
  process.getBuiltinModule = undefined;
  try {
    const random = await randomAccess(reader, "f.bin");
    assert.deepEqual([random.size, closed], [bytes.length, 1]);
    for (
      const [position, length] of [[0, 5], [1_000_000, 1_100_000], [bytes.length - 3, 10], [bytes.length, 1]]
    ) {
      const target = new Uint8Array(length);
      const filled = await random.readAt(position, target);
      assert.deepEqual(target.subarray(0, filled), bytes.subarray(position, position + length));
    }
    await random.close();
  } finally {
    process.getBuiltinModule = getBuiltinModule;
  }
});
