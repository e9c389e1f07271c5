// Elements stored as bfloat16, the upper half of an f32: two to a word, the lower half first. They are widened exactly.

// The elements of two words.
fn fromBfloat16s(words: vec2<u32>) -> vec4<f32> {
  return bitcast<vec4<f32>>(vec4<u32>(words.x << 16u, words.x & 0xffff0000u, words.y << 16u, words.y & 0xffff0000u));
}

// The first or the second element of a word.
fn fromBfloat16(word: u32, second: bool) -> f32 {
  return bitcast<f32>(select(word << 16u, word & 0xffff0000u, second));
}
