/**
 * Tokens of pieces that come again and again.
 *
 * @module
 */

/** How many pieces are kept, and how long they may be. */
const PIECES = 2 ** 14, LENGTH = 64;

/** An encoder that keeps what it gave for short pieces: words come again and again. */
export function keeping<Ids extends readonly unknown[]>(
  encode: (piece: string) => Ids,
): (piece: string) => Ids {
  const kept = new Map<string, Ids>();
  return (piece) => {
    if (piece.length > LENGTH) return encode(piece);
    let ids = kept.get(piece);
    if (ids === undefined) {
      if (kept.size === PIECES) kept.clear();
      kept.set(piece, ids = encode(piece));
    }
    return ids;
  };
}
