"""That transformers loads every folder which `retort prune` writes, and gives the log-probabilities of `retort score`.

    python check_pruned.py target/release/retort

The models are those of fixtures/parity with a row for each token of the tokenizer of score/llama. Each is cut in several
ways: layers, the hidden state, whole groups of heads, neurons, tokens, and all of it together; in the old spelling of
config.json in the last. No tensor may be missing, left over or of another shape, and the tokenizers must agree on the ids
of texts.
"""

import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

import build

TOKENIZER = build.FIXTURES / "score" / "llama"
FILES = ["tokenizer.json", "tokenizer_config.json", "chat_template.jinja"]
TOKENS = 320
MOST = 1e-4
TEXTS = ["the vessel is of glass, and 12 stone.", "Zürich? {qqq} salt_oil\n\n  fire", "neck the a of is THE WATER 3.1"]
WORDS = "vessel neck glass fire salt water oil stone the of and a is 12".split()


def main(retort: str) -> None:
    build.set_up()
    worst, count = 0.0, 0
    with tempfile.TemporaryDirectory() as place:
        place = Path(place)
        text = place / "text.txt"
        draw = np.random.RandomState(7)
        lines = (" ".join(draw.choice(WORDS, 14)) + ".\n\n" for _ in range(60))
        text.write_text("".join(lines))
        for case in sorted(path.name for path in (build.FIXTURES / "parity").iterdir()):
            for spelling in ("config.json", "config.v4.json"):
                teacher = place / "teacher"
                write_teacher(case, spelling, teacher)
                found = []
                ways = cuts(AutoConfig.from_pretrained(teacher))
                # The spellings differ in config.json alone, which every way to cut writes alike.
                for what, flags in ways if spelling == "config.json" else ways[-1:]:
                    out = place / "student"
                    found.append(check(retort, teacher, text, out, flags, f"{case} {spelling}: {what}"))
                    shutil.rmtree(out)
                shutil.rmtree(teacher)
                worst, count = max(worst, *found), count + len(found)
                print(f"{case:20} {spelling:15} {len(found):2} cuts, at most {max(found):.1e} apart", flush=True)
    print(f"{count} folders: log-probabilities at most {worst:.1e} apart")
    assert worst < MOST


def write_teacher(case: str, spelling: str, folder: Path) -> None:
    """A parity model with random weights for the tokens of the score tokenizer."""
    config = json.loads((build.FIXTURES / "parity" / case / spelling).read_text())
    config |= dict(vocab_size=TOKENS, bos_token_id=2, eos_token_id=2)
    positions = "n_positions" if "n_positions" in config else "max_position_embeddings"
    config[positions] = max(config.get(positions, 0), 64)
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config))
    model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(folder)).float().eval()
    build.randomise(model, build.seed_of(case, "pruned"))
    model.save_pretrained(folder)
    if spelling != "config.json":
        (folder / "config.json").write_text(json.dumps(config))
    for name in FILES:
        shutil.copy(TOKENIZER / name, folder / name)


def cuts(config) -> list[tuple[str, list]]:
    """Ways to cut a model, each as flags."""
    layers, width, heads = config.num_hidden_layers, config.hidden_size, config.num_attention_heads
    kv = getattr(config, "num_key_value_heads", None) or heads
    ffn = {"gpt2": "n_inner", "opt": "ffn_dim"}.get(config.model_type, "intermediate_size")
    ffn = getattr(config, ffn) or 4 * width
    tied = config.model_type in ("gpt2", "opt", "gpt_neox")
    fewer = max(heads - heads // kv, heads // kv)
    # Where a head's channels have no name of their own the hidden width follows from the heads; else the heads divide it.
    hidden = fewer * (width // heads) if tied else (width - 1) // fewer * fewer
    alone = [] if tied else [("hidden", ["--hidden", (width - 1) // heads * heads])]
    narrow = ["--heads", fewer] + ([] if tied else ["--hidden", hidden])
    last = layers - 1
    fewer_layers = ["--layers", last, "--layers-by", "ends"]
    if getattr(config, "scale_attn_by_inverse_layer_idx", False):
        # Each layer is tied to its number, so that the last alone can go.
        fewer_layers = ["--layers", ",".join(map(str, range(last)))] if last > 1 else ["--layers", layers]
    return [
        ("layers", fewer_layers),
        *alone,
        ("heads", narrow if tied or config.model_type == "llama" else ["--heads", fewer]),
        ("ffn", ["--ffn", ffn * 2 // 3]),
        ("vocab", ["--vocab", 290]),
        ("all", [*narrow, "--ffn", ffn // 2, *fewer_layers, "--vocab", 300, "--importance", "activation"]),
    ]


def check(retort: str, teacher: Path, text: Path, out: Path, flags: list, what: str) -> float:
    """Prunes, and says how far the log-probabilities of both programs lie apart."""
    command = [retort, "prune", "--model", teacher, "--input", text, "--out", out, "--json", "--quiet"]
    command += ["--sequence", 48, "--samples", 8, "--held-out", 2, "--batch", 4, "--dtype", "f32", *flags]
    done = json.loads(run(command, what))
    options = dict(dtype=torch.float32, output_loading_info=True)
    model, info = AutoModelForCausalLM.from_pretrained(out, **options)
    assert not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys")), (what, info)
    model.eval()
    numbers = sum(p.numel() for p in model.parameters())
    assert numbers == done["params"][1], (what, numbers, done["params"])
    tokenizer = AutoTokenizer.from_pretrained(out)
    rows = out / "rows.jsonl"
    rows.write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS))
    command = [retort, "score", "--model", out, "--input", rows, "--json", "--dtype", "f32", "--quiet"]
    answers = [json.loads(line) for line in run(command, what).splitlines()]
    for text, answer in zip(TEXTS, answers, strict=True):
        said = tokenizer(text)["input_ids"]
        assert answer["ids"][: len(said)] == said, (what, answer["ids"], said)
    return max(apart(model, answer) for answer in answers)


def run(command: list, what: str) -> str:
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True)
    assert done.returncode == 0, f"{what}: {' '.join(map(str, command))}\n{done.stderr}"
    return done.stdout


def apart(model, answer: dict) -> float:
    ids = torch.tensor([answer["ids"]])
    with torch.inference_mode():
        said = torch.log_softmax(model(ids).logits.double(), -1)[0]
    pairs = list(enumerate(answer["logprobs"]))[1:]
    return max(abs(said[at - 1, answer["ids"][at]].item() - ours) for at, ours in pairs)


if __name__ == "__main__":
    main(*sys.argv[1:])
