/**
 * What every store of sessions must do, whatever it is made of: one body for all.
 *
 * @module
 */
import assert from "node:assert/strict";
import type { SessionStore } from "../serve/mod.ts";

/** A session's name as it is in the store, different for each part of the test. */
const sessionOf = (n: number) => `sessions:${n.toString(16).padStart(64, "0")}`;
const TTL = { ttl: 3600 };

/**
 * Tries stores that lead to one place.
 *
 * @param a @param b two connections, or twice the same store
 * @param lists whether the store lists what it has
 */
export async function conforms(a: SessionStore, b: SessionStore, { lists = true } = {}): Promise<void> {
  const bytes = (...values: number[]) => new Uint8Array(values);
  const versionOf = async (store: SessionStore, key: string) => (await store.read(key))?.version;

  // Written, read by another connection, replaced, removed.
  const key = `${sessionOf(1)}:a`;
  assert.equal(await a.read(key), undefined);
  assert.equal(await a.write(key, bytes(1, 0, 255), undefined, TTL), true);
  const first = (await b.read(key))!;
  assert.deepEqual(new Uint8Array(first.value), bytes(1, 0, 255));
  assert.equal(await versionOf(a, key), first.version, "a version lasts as long as its value");
  assert.equal(await b.write(key, bytes(2), undefined, TTL), false, "there is a value");
  assert.equal(await b.write(key, bytes(2), first.version, TTL), true);
  assert.equal(await a.write(key, bytes(3), first.version, TTL), false, "the version is an earlier one");
  assert.equal(await a.write(key, undefined, first.version, TTL), false);
  const second = (await a.read(key))!;
  assert.notEqual(second.version, first.version);
  assert.deepEqual(new Uint8Array(second.value), bytes(2));
  assert.equal(await a.write(key, undefined, second.version, TTL), true);
  assert.equal(await b.read(key), undefined);
  assert.equal(await b.write(key, bytes(4), second.version, TTL), false, "a removed value has no version");
  assert.equal(
    await b.write(key, undefined, undefined, TTL),
    true,
    "nothing is to be removed, and there is nothing",
  );
  assert.equal(await b.read(key), undefined);
  assert.equal(await a.write(key, bytes(5), undefined, TTL), true);
  assert.notEqual(await versionOf(a, key), second.version);
  await b.remove(key);
  await b.remove(key);
  assert.equal(await a.read(key), undefined);

  // Every byte and every size.
  const all = Uint8Array.from({ length: 256 }, (_, n) => n);
  const largest = new Uint8Array(Math.min(a.valueBytes, 2 ** 20)).fill(7);
  for (const [n, value] of [all, all.subarray(100, 103), largest].entries()) {
    const chunk = `${sessionOf(2)}:write-0:${n}`;
    assert.equal(await a.write(chunk, value, undefined, TTL), true);
    assert.deepEqual(new Uint8Array((await b.read(chunk))!.value), new Uint8Array(value));
    await a.remove(chunk);
  }

  // Of many who write at once, over what is there or over nothing, one succeeds.
  const raced = `${sessionOf(3)}:a`;
  let before: string | undefined;
  for (let round = 0; round < 10; round++) {
    const writes = Array.from(
      { length: 8 },
      (_, n) => (n % 2 === 0 ? a : b).write(raced, bytes(round, n), before, TTL),
    );
    const won = (await Promise.all(writes)).flatMap((isWritten, n) => isWritten ? [n] : []);
    assert.equal(won.length, 1, `round ${round}: of 8 writers ${won.length} were told that they succeeded`);
    const now = (await a.read(raced))!;
    assert.deepEqual([...now.value], [round, won[0]]);
    before = now.version;
  }
  // Of a writer and one who removes, too.
  const [written, removed] = await Promise.all([
    a.write(raced, bytes(9), before, TTL),
    b.write(raced, undefined, before, TTL),
  ]);
  assert.equal(Number(written) + Number(removed), 1);
  assert.equal((await a.read(raced)) === undefined, removed);
  await a.remove(raced);

  // Lists what begins with a word, and nothing else.
  if (!lists) return;
  const keys = [`${sessionOf(4)}:a`, `${sessionOf(5)}:a`];
  for (const one of [...keys, "sessionsx:1:a", "quarantine:sessions:1:a"]) {
    assert.equal(await a.write(one, bytes(1), undefined, TTL), true);
  }
  assert.deepEqual((await b.list("sessions")).sort(), keys);
  for (const one of [...keys, "sessionsx:1:a", "quarantine:sessions:1:a"]) await a.remove(one);
  assert.deepEqual(await b.list("sessions"), []);
}
