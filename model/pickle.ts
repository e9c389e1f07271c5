/**
 * Python's pickle format, as far as files of weights need it, read without running anything. A pickle is a program for a
 * stack machine that may name any Python function and have it called. This machine knows the few names that
 * {@linkcode Names} gives it, and refuses all others before anything happens.
 *
 * Each step costs time and memory in proportion to the bytes that it reads or the values that it takes from the stack, so
 * no pickle keeps it busy for longer than its length warrants.
 *
 * @module
 */
import { rangeError } from "../core/errors.ts";

const OPERATION = "readTorch";

/** A Python tuple. */
export type Tuple = readonly Value[];

/** What a pickle is made of. Lists are not told from tuples; a dictionary is a `Map`. */
export type Value =
  | undefined
  | boolean
  | number
  | bigint
  | string
  | Tuple
  | Map<Value, Value>
  | Named
  | Opaque;

/** What a pickle may name: a class or a function. */
export interface Named {
  /** Module and name, as in `"torch._utils._rebuild_tensor_v2"`. */
  readonly name: string;
  /** What calling it gives; absent: it cannot be called. */
  call?(values: Tuple): Value;
}

/** A value of the reader that the pickle merely hands on, such as a storage. */
export interface Opaque {
  /** Tells it from {@linkcode Named}. */
  readonly opaque: string;
}

/** What the machine asks its user for. */
export interface Names {
  /** The names that are known, by module and name. */
  readonly known: ReadonlyMap<string, Named>;
  /** The value that a persistent id stands for. */
  persistent(id: Value): Value;
}

/** Stands on the stack below the values that the next instruction takes together. */
const MARK = Symbol("mark");

/**
 * Runs a pickle.
 *
 * @param bytes the pickle, which may be followed by others
 * @param names what it may name
 * @param where what to call it in messages
 * @throws {RangeError} when it names anything else, is damaged, or uses an instruction that files of weights do not need
 */
export function unpickle(bytes: Uint8Array, names: Names, where: string): Value {
  const machine = new Machine(bytes, names, where);
  return machine.run();
}

/** The stack machine. */
class Machine {
  readonly #bytes: Uint8Array;
  readonly #view: DataView;
  readonly #names: Names;
  readonly #where: string;
  readonly #stack: (Value | typeof MARK)[] = [];
  /** Where the marks lie. */
  readonly #marks: number[] = [];
  readonly #memo = new Map<number, Value>();
  #at = 0;

  constructor(bytes: Uint8Array, names: Names, where: string) {
    this.#bytes = bytes;
    this.#view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
    this.#names = names;
    this.#where = where;
  }

  run(): Value {
    for (;;) {
      const at = this.#at, code = this.#unsigned(1);
      switch (String.fromCharCode(code)) {
        case ".":
          return this.#pop();
        case "\x80": { // PROTO
          const version = this.#unsigned(1);
          if (version < 2 || version > 5) this.#refuse("the pickle's protocol must be 2 to 5", version);
          break;
        }
        case "\x95": // FRAME: its length matters to streams only
          this.#take(8);
          break;
        case "(":
          this.#marks.push(this.#stack.length);
          this.#stack.push(MARK);
          break;
        case "0":
          this.#pop();
          break;
        case "N":
          this.#stack.push(undefined);
          break;
        case "\x88":
          this.#stack.push(true);
          break;
        case "\x89":
          this.#stack.push(false);
          break;
        case "K":
          this.#stack.push(this.#unsigned(1));
          break;
        case "M":
          this.#stack.push(this.#unsigned(2));
          break;
        case "J":
          this.#stack.push(this.#view.getInt32(this.#take(4), true));
          break;
        case "\x8a":
          this.#stack.push(this.#long(this.#unsigned(1)));
          break;
        case "G":
          this.#stack.push(this.#view.getFloat64(this.#take(8)));
          break;
        case "X":
          this.#stack.push(this.#text(this.#unsigned(4)));
          break;
        case "\x8c":
          this.#stack.push(this.#text(this.#unsigned(1)));
          break;
        case "}":
          this.#stack.push(new Map());
          break;
        case ")":
        case "]":
          this.#stack.push([]);
          break;
        case "t":
          this.#stack.push(this.#popMarked());
          break;
        case "\x85":
        case "\x86":
        case "\x87":
          this.#stack.push(Array.from({ length: code - 0x84 }, () => this.#pop()).reverse());
          break;
        case "e": // APPENDS
          this.#append(this.#popMarked());
          break;
        case "a":
          this.#append([this.#pop()]);
          break;
        case "u":
          this.#setItems(this.#popMarked());
          break;
        case "s": {
          const value = this.#pop(), key = this.#pop();
          this.#setItems([key, value]);
          break;
        }
        case "q":
          this.#memo.set(this.#unsigned(1), this.#top());
          break;
        case "r":
          this.#memo.set(this.#unsigned(4), this.#top());
          break;
        case "\x94": // MEMOIZE
          this.#memo.set(this.#memo.size, this.#top());
          break;
        case "h":
          this.#recall(this.#unsigned(1));
          break;
        case "j":
          this.#recall(this.#unsigned(4));
          break;
        case "c": {
          const module = this.#line();
          this.#stack.push(this.#named(module, this.#line()));
          break;
        }
        case "\x93": { // STACK_GLOBAL
          const name = this.#pop(), module = this.#pop();
          if (typeof module !== "string" || typeof name !== "string") {
            this.#refuse("the pickle must name by strings", typeof name);
          }
          this.#stack.push(this.#named(module, name));
          break;
        }
        case "R": {
          const values = this.#pop(), callee = this.#pop();
          const { name, call } = isNamed(callee) ? callee : { name: undefined, call: undefined };
          if (call === undefined || !Array.isArray(values)) {
            this.#refuse("the pickle must call what is known to it", name);
          }
          this.#stack.push(call(values));
          break;
        }
        case "Q":
          this.#stack.push(this.#names.persistent(this.#pop()));
          break;
        case "b": // BUILD: attributes of the dictionary, such as versions of modules
          this.#pop();
          if (!(this.#top() instanceof Map)) {
            this.#refuse("the pickle must give attributes to dictionaries only", typeof this.#top());
          }
          break;
        default:
          this.#refuse("the pickle must use known instructions only", code, `at byte ${at}`);
      }
    }
  }

  /** The name, if it is known. */
  #named(module: string, name: string): Named {
    const full = `${module}.${name}`;
    return this.#names.known.get(full) ??
      this.#refuse("the pickle must name nothing but dictionaries, tensors and their storages", full);
  }

  #append(values: Tuple): void {
    const list = this.#top();
    if (!Array.isArray(list)) this.#refuse("the pickle must append to a list", typeof list);
    for (const value of values) list.push(value);
  }

  #setItems(items: Tuple): void {
    const target = this.#top();
    if (!(target instanceof Map) || items.length % 2 !== 0) {
      this.#refuse("the pickle must set pairs of a dictionary", items.length);
    }
    for (let i = 0; i < items.length; i += 2) target.set(items[i], items[i + 1]);
  }

  #recall(index: number): void {
    if (!this.#memo.has(index)) this.#refuse("the pickle must recall what it remembered", index);
    this.#stack.push(this.#memo.get(index));
  }

  #top(): Value {
    const value = this.#stack.at(-1);
    if (this.#stack.length === 0 || value === MARK) {
      this.#refuse("the pickle must take only values that it made", "none");
    }
    return value as Value;
  }

  #pop(): Value {
    const value = this.#top();
    this.#stack.pop();
    return value;
  }

  /** The values above the last mark, which goes too. */
  #popMarked(): Value[] {
    const mark = this.#marks.pop() ?? this.#refuse("the pickle must mark what it takes together", "none");
    const values = this.#stack.splice(mark);
    values.shift();
    return values as Value[];
  }

  /** Passes over `length` bytes, and returns where they begin. */
  #take(length: number): number {
    const at = this.#at;
    if (length > this.#bytes.length - at) {
      this.#refuse(`the pickle must not end before ${length} more bytes`, this.#bytes.length - at);
    }
    this.#at += length;
    return at;
  }

  #unsigned(length: 1 | 2 | 4): number {
    const at = this.#take(length);
    if (length === 1) return this.#view.getUint8(at);
    return length === 2 ? this.#view.getUint16(at, true) : this.#view.getUint32(at, true);
  }

  /** An integer of up to 255 bytes, little-endian, in two's complement. */
  #long(length: number): number | bigint {
    const at = this.#take(length);
    let value = 0n;
    for (let i = length - 1; i >= 0; i--) value = value << 8n | BigInt(this.#bytes[at + i]);
    value = BigInt.asIntN(8 * length, value);
    return Number.isSafeInteger(Number(value)) ? Number(value) : value;
  }

  #text(length: number): string {
    const at = this.#take(length);
    try {
      return new TextDecoder("utf-8", { fatal: true, ignoreBOM: true })
        .decode(this.#bytes.subarray(at, at + length));
    } catch {
      return this.#refuse("the pickle's strings must be UTF-8", `bytes ${at} to ${at + length}`);
    }
  }

  /** Text up to the end of the line. */
  #line(): string {
    const end = this.#bytes.indexOf(0x0a, this.#at);
    if (end < 0) this.#refuse("the pickle must end its lines", `none from byte ${this.#at}`);
    const text = this.#text(end - this.#at);
    this.#at++;
    return text;
  }

  #refuse(expectation: string, current: unknown, detail?: string): never {
    // A state's name stands right above the first mark or, with others before it, at an even distance from it.
    let name: unknown;
    const first = this.#marks[0] ?? this.#stack.length;
    for (let i = first + 1; i < this.#stack.length && this.#stack[i] !== MARK; i += 2) name = this.#stack[i];
    const tensor = typeof name === "string" ? `tensor ${JSON.stringify(name)} of ` : "";
    rangeError(OPERATION, expectation, current, `${tensor}${this.#where}${detail ? `, ${detail}` : ""}`);
  }
}

function isNamed(value: Value): value is Named {
  return typeof value === "object" && !Array.isArray(value) && !(value instanceof Map) && "name" in value;
}
