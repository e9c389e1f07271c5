"""Models and expected values in sentencepiece/, of all kinds that SentencePiece has: pip install sentencepiece==0.2.2 protobuf

Trains small models on the texts of this repository, changes some (unused pieces, equal scores), and writes what the
reference gives: ids of texts, texts of ids. Run in this folder; writes all of it anew.
"""

import json
import random
from pathlib import Path

import sentencepiece
from sentencepiece import sentencepiece_model_pb2 as proto

random.seed(17)
folder = Path("sentencepiece")
folder.mkdir(exist_ok=True)
root = Path(__file__).resolve().parents[2]
lines = [
    line
    for name in ["README.md", "ARCHITECTURE.md", "CONTRIBUTING.md"]
    for line in (root / name).read_text("utf-8").splitlines()
] + ["東京は日本の首都です。中国 한국어 Ελληνικά кириллица déjà vu naïve façade"] * 8
(folder / "text.txt").write_text("\n".join(lines), "utf-8")

# A map of characters with entries that begin others, that are longer than a cluster of characters, and that give nothing.
rules = {"A": "a", "ﬁ": "fi", "㍿": "株式会社", "\u3000": " ", "\u00a0": " ", "\u0001": "", "e\u0301": "é", "e\u0301\u0302": "E",
         "\u1112\u1161\u11ab": "한", "\r\n": " ", "\r": "", "Ⅷ": "viii", "--": "—", "---": "– "}
(folder / "rules.tsv").write_text(
    "".join(" ".join(f"{ord(c):X}" for c in a) + "\t" + " ".join(f"{ord(c):X}" for c in b) + "\n" for a, b in rules.items()),
    "utf-8")
bits = [" ", "  ", "   ", "\t", "\n", "\r\n", "<|user|>", "foo bar", "the", "中国", "𠮷", "é", "e\u0301", "e\u0301\u0302", "ſ",
        "\u1112\u1161\u11ab", "ﬁ", "Ⅷ", "㍿", "\u3000", "\u00a0", "\u200b", "▁", "A", "🙂", "aaaa", "<0x41>", "--", "---", "----",
        "\u0001", "<pad>", "", "attention is"]


def text():
    kind = random.random()
    if kind < 0.3:
        return random.choice(lines)[: random.randint(0, 60)]
    return "".join(random.choice([random.choice(bits), random.choice(lines)[:7]]) for _ in range(random.randint(0, 9)))


def train(name, change=None, **options):
    plain = {"normalization_rule_name": "identity", "remove_extra_whitespaces": False}
    options = {**({} if "normalization_rule_tsv" in options else plain), **options}
    sentencepiece.SentencePieceTrainer.train(
        input=str(folder / "text.txt"), model_prefix=str(folder / name), minloglevel=2, num_threads=1,
        hard_vocab_limit=False, **options)
    path = folder / f"{name}.model"
    model = proto.ModelProto.FromString(path.read_bytes())
    model.trainer_spec.ClearField("input")
    model.trainer_spec.ClearField("model_prefix")
    model.normalizer_spec.ClearField("normalization_rule_tsv")
    model.ClearField("self_test_data")
    if change is not None:
        change(model)
    path.write_bytes(model.SerializeToString())
    (folder / f"{name}.vocab").unlink()
    reference = sentencepiece.SentencePieceProcessor(model_file=str(path))
    texts = [""] + bits + [text() for _ in range(100)]
    texts = [text for text in dict.fromkeys(texts) if not any(name in text for name in ["<s>", "</s>", "<unk>"])]
    ids = reference.encode(texts)
    size = reference.vocab_size()
    spaces = [id for id in range(3, size) if reference.id_to_piece(id).startswith("▁")]
    bytes = [id for id in range(size) if reference.is_byte(id)] or spaces
    decoded = [[random.choice(random.choice([range(3, size), bytes, spaces])) for _ in range(random.randint(0, 6))]
               for _ in range(60)]
    return {
        "name": name,
        "texts": texts,
        "ids": ids,
        "decoded": [[ids, reference.decode([reference.id_to_piece(id) for id in ids])] for ids in decoded],
    }


def unused(model):
    for piece in [piece for piece in model.pieces if piece.type == 1 and len(piece.piece) > 2][::3]:
        piece.type = 5


def equal(model):
    scored = [piece for piece in model.pieces if piece.type == 1]
    for first, second in zip(scored[::2], scored[1::2]):
        second.score = first.score


mapped = {"normalization_rule_tsv": str(folder / "rules.tsv")}
own = {"user_defined_symbols": ["<|user|>", "  ", "foo bar", "the", "中国"], "control_symbols": ["<pad>"]}
cases = [
    train("bpe", model_type="bpe", vocab_size=500, byte_fallback=True),
    train("bpe_own_pieces", model_type="bpe", vocab_size=500, byte_fallback=True, **own),
    train("bpe_mapped", model_type="bpe", vocab_size=400, **mapped, **own),
    train("bpe_suffix", model_type="bpe", vocab_size=400, treat_whitespace_as_suffix=True, **mapped),
    train("bpe_across_words", model_type="bpe", vocab_size=400, split_by_whitespace=False, add_dummy_prefix=False),
    train("bpe_unused", unused, model_type="bpe", vocab_size=500),
    train("bpe_equal", equal, model_type="bpe", vocab_size=500, byte_fallback=True),
    train("unigram", model_type="unigram", vocab_size=400),
    train("unigram_own_pieces", model_type="unigram", vocab_size=600, byte_fallback=True, **mapped, **own),
    train("unigram_unused", unused, model_type="unigram", vocab_size=400, byte_fallback=True),
    train("unigram_equal", equal, model_type="unigram", vocab_size=400, add_dummy_prefix=False),
    train("characters", model_type="char", vocab_size=100, **own),
]
(folder / "text.txt").unlink()
(folder / "rules.tsv").unlink()
with open(folder / "cases.jsonl", "w", encoding="utf-8") as file:
    for case in cases:
        file.write(json.dumps(case, ensure_ascii=False, separators=(",", ":")) + "\n")
