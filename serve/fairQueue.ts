/**
 * A queue in which the owners take turns, however much each of them has put in.
 *
 * @module
 */

/** Items of several owners: round robin over the owners, and for each of them first come, first served. */
export class FairQueue<T> implements Iterable<T> {
  /** In order of their turns. An owner without items is in no turn. */
  readonly #queues = new Map<string, T[]>();
  #size = 0;

  /** Number of items. */
  get size(): number {
    return this.#size;
  }

  /** Number of owners that have items. */
  get owners(): number {
    return this.#queues.size;
  }

  /** Number of items of one owner. */
  sizeOf(owner: string): number {
    return this.#queues.get(owner)?.length ?? 0;
  }

  /** Puts an item behind all others of its owner. */
  push(owner: string, item: T): void {
    const queue = this.#queues.get(owner);
    if (queue === undefined) this.#queues.set(owner, [item]);
    else queue.push(item);
    this.#size++;
  }

  /** Takes the item whose turn it is; of one owner, if it is given. */
  shift(owner = this.#queues.keys().next().value): T | undefined {
    const queue = owner === undefined ? undefined : this.#queues.get(owner);
    if (owner === undefined || queue === undefined) return undefined;
    const item = queue.shift();
    this.#size--;
    this.#queues.delete(owner);
    if (queue.length > 0) this.#queues.set(owner, queue); // behind the other owners
    return item;
  }

  /** The first item of each owner, in order of their turns. */
  *heads(): Generator<[owner: string, item: T]> {
    for (const [owner, [item]] of this.#queues) yield [owner, item];
  }

  /** Removes items; the turns of the owners stay. */
  remove(isUnwanted: (item: T) => boolean): void {
    for (const [owner, queue] of this.#queues) {
      const left = queue.filter((item) => !isUnwanted(item));
      this.#size -= queue.length - left.length;
      if (left.length === 0) this.#queues.delete(owner);
      else if (left.length < queue.length) this.#queues.set(owner, left);
    }
  }

  /** All items, owner by owner. */
  *[Symbol.iterator](): Generator<T> {
    for (const queue of this.#queues.values()) yield* queue;
  }
}
