"""That transformers loads a folder which `retort distill` wrote, and gives the log-probabilities that `retort score` gives.

    python check_trained.py RUN/final ROWS_IDS.jsonl target/release/retort
"""

import json
import subprocess
import sys

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer


def main(folder, rows, retort):
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    command = [retort, "score", "--model", folder, "--input", rows, "--json", "--dtype", "f32", "--quiet"]
    answers = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()
    worst = 0.0
    for answer in map(json.loads, answers):
        ids = torch.tensor([answer["ids"]])
        with torch.inference_mode():
            said = torch.log_softmax(model(ids).logits.float(), -1)[0]
        for at, ours in list(enumerate(answer["logprobs"]))[1:]:
            worst = max(worst, abs(said[at - 1, answer["ids"][at]].item() - ours))
    print(f"{len(answers)} rows, {len(tokenizer)} tokens: log-probabilities at most {worst:.1e} apart")
    assert worst < 2e-5


if __name__ == "__main__":
    main(*sys.argv[1:])
