"""Writes tests/fixtures/folders/<name>/: folders as older tools left them.

Each holds the weights of a parity case's kind under the names, buffers, shards
or dtype of its time, a config in the transformers 4 spelling, and a
golden.safetensors with `ids`, `lengths` (right padded) and float32 `logits`
by transformers from that very folder.
"""

import json
import sys
import tempfile
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

import build
from cases import CASES
from spelling import v4_config

OUT = build.FIXTURES / "folders"
CASE = {case.name: case for case in CASES}
LENGTHS = (10, 6, 1)
SAME = 1e-5


def main() -> None:
    build.set_up()
    wanted = sys.argv[1:]
    for name, (case_name, write) in FOLDERS.items():
        if not wanted or name in wanted:
            make(name, CASE[case_name], write)
    print(f"{build.megabytes(OUT):.2f} MB in {OUT}")


def make(name: str, case, write) -> None:
    """One folder, its golden, and the check that it is the model we meant."""
    folder = build.fresh(OUT / name)
    model = build.new_model(case.model_type, case.config, build.seed_of("folders", name))
    dtype = write(model, saved_tensors(model), folder) or "float32"
    write_config(case, model, folder, dtype)
    rows = build.random_rows(build.seed_of(name), model.config.vocab_size, LENGTHS, avoid=(case.pad_id,))
    ids, mask = build.pad_rows(rows, case.pad_id, "right")
    logits = build.golden_logits(build.load(folder), ids, mask)
    worst = (build.golden_logits(model, ids, mask) - logits).abs().max().item()
    # Two calls may take different kernels (memory alignment): last bits differ.
    assert worst < SAME, (name, worst)
    golden = {"ids": ids, "lengths": torch.tensor(LENGTHS), "logits": logits}
    build.write_tensors(folder / "golden.safetensors", golden)
    build.readable(folder)
    print(f"{name:14} {1000 * build.megabytes(folder):4.0f} KB")


def write_config(case, model, folder: Path, dtype: str) -> None:
    """config.json in the transformers 4 spelling."""
    v5 = model.config.to_diff_dict() | {"dtype": dtype, "architectures": [type(model).__name__]}
    defaults = type(model.config).default_config_fields()
    build.write_json(folder / "config.json", v4_config(case, v5, defaults))


def saved_tensors(model) -> dict:
    """The tensors under the names that save_pretrained gives them."""
    with tempfile.TemporaryDirectory() as other:
        model.save_pretrained(other)
        return load_file(Path(other) / "model.safetensors")


def save(tensors: dict, folder: Path, file: str = "model.safetensors") -> None:
    """safetensors with transformers' metadata; tensors in one file share no memory."""
    tensors = {k: v.clone().contiguous() for k, v in tensors.items()}
    save_file(tensors, folder / file, metadata={"format": "pt"})


def causal(size: int, dtype) -> torch.Tensor:
    """The triangular mask that old attention modules kept: [1, 1, size, size]."""
    return torch.ones(size, size).tril().to(dtype).reshape(1, 1, size, size)


def gpt2_bare(model, tensors, folder) -> None:
    """No `transformer.`, mask buffers (of two dtypes), and the tied head twice."""
    tensors = {k.removeprefix("transformer."): v for k, v in tensors.items()}
    for layer in range(model.config.n_layer):
        dtype = torch.uint8 if layer % 2 == 0 else torch.bool
        tensors[f"h.{layer}.attn.bias"] = causal(model.config.n_positions, dtype)
        tensors[f"h.{layer}.attn.masked_bias"] = torch.tensor(-1e4)
    tensors["lm_head.weight"] = tensors["wte.weight"]
    save(tensors, folder)


def neox_old(model, tensors, folder) -> None:
    """Pythia's folders: masks and rotary frequencies in each layer."""
    for layer in range(model.config.num_hidden_layers):
        attention = f"gpt_neox.layers.{layer}.attention"
        tensors[f"{attention}.bias"] = causal(model.config.max_position_embeddings, torch.bool)
        tensors[f"{attention}.masked_bias"] = torch.tensor(-1e9)
        tensors[f"{attention}.rotary_emb.inv_freq"] = model.gpt_neox.rotary_emb.inv_freq
    save(tensors, folder)


def llama_sharded(model, tensors, folder) -> None:
    """Shards and an index, each layer with its rotary frequencies."""
    model.save_pretrained(folder, max_shard_size="16KB")
    index_file = folder / "model.safetensors.index.json"
    index = json.loads(index_file.read_text())
    for layer in range(model.config.num_hidden_layers):
        attention = f"model.layers.{layer}.self_attn"
        name = f"{attention}.rotary_emb.inv_freq"
        shard = index["weight_map"][f"{attention}.q_proj.weight"]
        frequencies = model.model.rotary_emb.inv_freq
        save(load_file(folder / shard) | {name: frequencies}, folder, shard)
        index["weight_map"][name] = shard
        index["metadata"]["total_size"] += 4 * frequencies.numel()
    index["weight_map"] = dict(sorted(index["weight_map"].items()))
    build.write_json(index_file, index)
    assert len(set(index["weight_map"].values())) > 2
    assert set(index["weight_map"]) > set(tensors)


def llama_f16(model, tensors, folder) -> str:
    """Saved in float16; the model is rounded to match."""
    save({k: v.half() for k, v in tensors.items()}, folder)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(parameter.half())
    return "float16"


def opt_bare(model, tensors, folder) -> None:
    """No `model.` prefix, as an OPTModel was saved."""
    save({k.removeprefix("model."): v for k, v in tensors.items()}, folder)


# Name -> the parity case whose config it takes, and what writes its weights.
FOLDERS = {
    "gpt2-bare": ("gpt2", gpt2_bare),
    "gpt_neox-old": ("gpt_neox", neox_old),
    "llama-sharded": ("llama", llama_sharded),
    "llama-f16": ("llama", llama_f16),
    "opt-bare": ("opt-pre", opt_bare),
}


if __name__ == "__main__":
    main()
