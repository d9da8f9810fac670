"""Writes tests/fixtures/score/<name>/: complete folders, rows, and their scores.

For each `rows*.jsonl` an `expected*.jsonl`, a line a row:
`{"ids": [...], "logprobs": [null, ...]}`, float32, over the whole output of
the model, padding of the vocabulary included.
"""

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Callable

import numpy as np
import torch
from tokenizers import Tokenizer
from transformers import AutoTokenizer

import build
import vocabularies
from corpus import CHATS, PROMPTS, TEXTS

OUT = build.FIXTURES / "score"


@dataclass(frozen=True)
class Score:
    """A folder: its tokenizer, its model, the sizes of both."""

    name: str
    model_type: str
    write_tokenizer: Callable[[Path], int]
    config: dict
    # Rows of the output beyond the tokenizer's size.
    padding: int = 0


def _decoder(**extra):
    base = dict(hidden_size=20, intermediate_size=24, num_attention_heads=5, num_key_value_heads=1)
    base |= dict(num_hidden_layers=2, max_position_embeddings=512, rms_norm_eps=1e-5)
    return base | extra


FOLDERS = [
    Score("llama", "llama", vocabularies.chat_bpe, _decoder(), padding=32),
    Score("gpt2", "gpt2", vocabularies.gpt2_files, dict(n_embd=20, n_head=2, n_layer=2, n_positions=256)),
    Score("llama2", "llama", vocabularies.llama2_bpe, _decoder(tie_word_embeddings=True)),
    Score(
        "opt",
        "opt",
        vocabularies.opt_files,
        dict(
            hidden_size=20,
            ffn_dim=30,
            num_attention_heads=5,
            num_hidden_layers=2,
            max_position_embeddings=256,
        ),
    ),
]


def main() -> None:
    build.set_up()
    wanted = sys.argv[1:]
    for score in FOLDERS:
        if not wanted or score.name in wanted:
            make(score)
    print(f"{build.megabytes(OUT):.2f} MB in {OUT}")


def make(score: Score) -> None:
    """One folder with all its rows."""
    folder = build.fresh(OUT / score.name)
    size = score.write_tokenizer(folder)
    write_model(score, folder, size)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert len(tokenizer) == size, (len(tokenizer), size)
    model = build.load(folder)
    texts = TEXTS + [f"before {tokenizer.eos_token} after", tokenizer.eos_token]
    check_tokenizer(folder, tokenizer, texts + [text for pair in PROMPTS for text in pair])
    text_rows(folder, model, tokenizer, texts)
    id_rows(folder, model, score.name, size)
    prompt_rows(folder, model, tokenizer)
    if tokenizer.chat_template:
        chat_rows(folder, model, tokenizer)
    build.readable(folder)
    outputs, kilobytes = model.config.vocab_size, 1000 * build.megabytes(folder)
    print(f"{score.name:8} {size} tokens, {outputs} outputs, {kilobytes:.0f} KB")


def write_model(score: Score, folder: Path, size: int) -> None:
    """Config and weights, with the ids of the tokenizer's specials."""
    tokenizer_config = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "config.json").write_text(json.dumps({"model_type": score.model_type}))
    tokenizer = AutoTokenizer.from_pretrained(folder)
    ids = {f"{kind}_token_id": getattr(tokenizer, f"{kind}_token_id") for kind in ("bos", "eos", "pad")}
    config = score.config | ids | {"vocab_size": size + score.padding}
    model = build.new_model(score.model_type, config, build.seed_of("score", score.name))
    model.save_pretrained(folder)
    # save_pretrained of a model leaves the tokenizer's files alone.
    assert tokenizer_config == json.loads((folder / "tokenizer_config.json").read_text())


def check_tokenizer(folder: Path, tokenizer, texts) -> None:
    """transformers rebuilds some classes by itself: here nothing may be lost."""
    if not (folder / "tokenizer.json").exists():
        return
    plain = Tokenizer.from_file(str(folder / "tokenizer.json"))
    for text in texts:
        for specials in (True, False):
            ours = plain.encode(text, add_special_tokens=specials).ids
            assert ours == tokenizer(text, add_special_tokens=specials)["input_ids"], text


# Rows ------------------------------------------------------------------------


def text_rows(folder: Path, model, tokenizer, texts) -> None:
    """{"text"}: as tokenizer(text), with the specials of its post-processor."""
    rows = [{"text": text} for text in texts]
    write_pair(folder, "", rows, [tokenizer(text)["input_ids"] for text in texts], model)


def id_rows(folder: Path, model, name: str, size: int) -> None:
    """{"ids", "prompt_len"?}: used as they are, specials anywhere."""
    batch = build.random_rows(build.seed_of("score", name, "ids"), size, (17, 8, 1, 30))
    prompt_lens = (5, 7, 0, None)
    rows = [{"ids": ids} | ({} if n is None else {"prompt_len": n}) for ids, n in zip(batch, prompt_lens)]
    write_pair(folder, "_ids", rows, batch, model)


def prompt_rows(folder: Path, model, tokenizer) -> None:
    """{"prompt", "response"} by the template `plain`: the two apart, then EOS."""
    rows = [{"prompt": prompt, "response": response} for prompt, response in PROMPTS]
    ids = [tokenizer(prompt)["input_ids"] + response_ids(tokenizer, response) for prompt, response in PROMPTS]
    write_pair(folder, "_prompt", rows, ids, model)


def response_ids(tokenizer, response: str) -> list[int]:
    """A response without specials, and EOS."""
    return tokenizer(response, add_special_tokens=False)["input_ids"] + [tokenizer.eos_token_id]


def chat_rows(folder: Path, model, tokenizer) -> None:
    """{"messages"}: the conversation up to the last answer, the answer, its end."""
    rows, batch = [], []
    for chat in CHATS:
        messages = [{"role": role, "content": content} for role, content in chat]
        assert messages[-1]["role"] == "assistant"
        answer = messages[-1]["content"]
        prompt = tokenizer.apply_chat_template(messages[:-1], tokenize=False, add_generation_prompt=True)
        whole = tokenizer.apply_chat_template(messages, tokenize=False)
        # The template's end of turn is EOS; only its newline is not scored.
        assert prompt + answer + tokenizer.eos_token + "\n" == whole
        ids = tokenizer(prompt, add_special_tokens=False)["input_ids"]
        batch.append(ids + response_ids(tokenizer, answer))
        rows.append({"messages": messages})
    write_pair(folder, "_chat", rows, batch, model)


def write_pair(folder: Path, suffix: str, rows, batch, model) -> None:
    """rows<suffix>.jsonl and expected<suffix>.jsonl."""
    expected = [{"ids": ids, "logprobs": logprobs(model, ids)} for ids in batch]
    write_lines(folder / f"rows{suffix}.jsonl", rows)
    write_lines(folder / f"expected{suffix}.jsonl", expected)


def write_lines(path: Path, rows) -> None:
    lines = [json.dumps(row, ensure_ascii=False) for row in rows]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


@torch.no_grad()
def logprobs(model, ids: list[int]) -> list[float | None]:
    """log p(ids[i] | ids[<i]), the first null, each float32 in its shortest form."""
    assert 0 < len(ids) <= model.config.max_position_embeddings, len(ids)
    batch = torch.tensor([ids])
    logits = build.logits_of(model, batch, torch.ones_like(batch)).float()
    table = torch.log_softmax(logits[0, :-1], dim=-1)
    picked = table.gather(1, batch[0, 1:, None])[:, 0].numpy()
    return [None] + [float(str(np.float32(p))) for p in picked]


if __name__ == "__main__":
    main()
