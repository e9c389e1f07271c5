"""Expected values in tokenizers.jsonl, as the official library gives them: pip install tokenizers==0.22.2

Each line is a case: a tokenizer.json of random features, texts with their ids (with and without what is added to
prompts), and ids with their text, special tokens skipped. Run in this folder; writes the file anew.

0.23.2 gives the same ids. It decodes added tokens in their normalised form, and those even where they are special: texts
are those of 0.22.2.
"""

import json

from tokenizers import Tokenizer

with open("tokenizers.jsonl", encoding="utf-8") as file:
    cases = [json.loads(line) for line in file]
with open("tokenizers.jsonl", "w", encoding="utf-8") as file:
    for case in cases:
        tokenizer = Tokenizer.from_str(json.dumps(case["json"]))
        case["ids"] = [tokenizer.encode(text).ids for text in case["texts"]]
        case["plain"] = [tokenizer.encode(text, add_special_tokens=False).ids for text in case["texts"]]
        case["decoded"] = [[ids, tokenizer.decode(ids)] for ids, _ in case["decoded"]]
        file.write(json.dumps(case, ensure_ascii=False, separators=(",", ":")) + "\n")
