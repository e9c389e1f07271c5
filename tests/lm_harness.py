"""EleutherAI's lm-evaluation-harness against a server: its own client and remote tokenizer. Run by lm_harness.ts."""

import json
import sys

from lm_eval.api.instance import Instance
from lm_eval.models.openai_completions import LocalCompletionsAPI

url, requests = sys.argv[1], json.loads(sys.argv[2])
client = LocalCompletionsAPI(
    model="levin", base_url=url, tokenizer_backend="remote", batch_size=3, max_length=2048
)


def ask(kind, arguments):
    instances = [Instance(kind, {}, tuple(each), i) for i, each in enumerate(arguments)]
    return getattr(client, kind)(instances)


until = {"until": requests["until"], "max_gen_toks": requests["tokens"], "temperature": 0}
answers = {
    "loglikelihood": ask("loglikelihood", requests["pairs"]),
    "rolling": ask("loglikelihood_rolling", [[text] for text in requests["texts"]]),
    "generated": ask("generate_until", [[text, until] for text in requests["texts"]]),
}
print(json.dumps(answers))
