"""Models with random weights, batches of random rows, and what transformers
computes on them: shared by make_parity.py, make_folders.py and make_score.py.

Randomness is numpy's RandomState, whose streams are frozen for good.
"""

import json
import os
import zlib
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"

import numpy as np
import torch
import transformers
from safetensors import safe_open
from safetensors.torch import save_file
from torch.nn.functional import cross_entropy
from transformers import AutoConfig, AutoModelForCausalLM

FIXTURES = Path(__file__).resolve().parent.parent / "fixtures"
SIDES = ("right", "left")


def set_up() -> None:
    """One thread, deterministic kernels, no progress bars."""
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()


def seed_of(*parts) -> int:
    """A seed from names and numbers, the same on every machine."""
    return zlib.crc32("/".join(map(str, parts)).encode())


# Weights ---------------------------------------------------------------------


def new_model(model_type: str, config: dict, seed: int):
    """A float32 model in eval mode with random weights, eager attention."""
    config = AutoConfig.for_model(model_type, **config)
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()
    randomise(model, seed)
    return model


@torch.no_grad()
def randomise(model, seed: int) -> None:
    """Weights under which a bug in any one tensor shows in the logits.

    Norm weights lie around 1 and biases around 0, both well spread. Matrices
    keep the size of what they multiply, queries and keys a little more, so
    that attention is far from uniform. Embeddings and heads give logits of a
    few units.
    """
    for name, tensor in sorted(model.named_parameters()):
        draw = np.random.RandomState(seed_of(seed, name)).standard_normal(tuple(tensor.shape))
        centre, spread = _spread(name, tensor)
        tensor.copy_(torch.from_numpy(centre + spread * draw))


def _spread(name: str, tensor) -> tuple[float, float]:
    """Mean and standard deviation of the parameter `name`."""
    norm = "norm" in name or "ln_" in name
    if name.endswith("bias"):
        return 0.0, 0.3
    if norm:
        return 1.0, 0.35
    if any(word in name for word in ("embed", "wte", "wpe", "lm_head")):
        return 0.0, 0.35
    # GPT-2 keeps its matrices as [in, out], all others as [out, in].
    fan_in = tensor.shape[0] if ".c_" in name else tensor.shape[1]
    gain = 1.4 if any(word in name for word in ("q_proj", "k_proj", "c_attn", "query")) else 1.0
    return 0.0, gain / fan_in**0.5


def load(folder: Path, dtype=torch.float32, **extra):
    """The folder's model as from_pretrained gives it, eager attention."""
    extra = {"attn_implementation": "eager"} | extra
    return AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, **extra).eval()


def saved_names(model, folder: Path) -> dict[str, str]:
    """Parameter name -> its name in the folder's file.

    They are the same but for GPT-NeoX, whose `lm_head` is saved as `embed_out`.
    """
    with safe_open(folder / "model.safetensors", "pt") as file:
        on_disk = set(file.keys())
    names = {name: name for name, _ in model.named_parameters()}
    if "embed_out.weight" in on_disk:
        names["lm_head.weight"] = "embed_out.weight"
    assert set(names.values()) == on_disk, set(names.values()) ^ on_disk
    return names


# Batches ---------------------------------------------------------------------


def random_rows(seed: int, vocab: int, lengths, avoid=()) -> list[list[int]]:
    """A row of random ids for each length, without the ids in `avoid`."""
    allowed = np.array([i for i in range(vocab) if i not in avoid])
    draw = np.random.RandomState(seed)
    return [[int(i) for i in draw.choice(allowed, size=n)] for n in lengths]


def pad_rows(rows, pad_id: int, side: str):
    """ids and mask, both [B, T]."""
    width = max(map(len, rows))
    ids, mask = [], []
    for row in rows:
        gap = width - len(row)
        if side == "left":
            ids.append([pad_id] * gap + row)
            mask.append([0] * gap + [1] * len(row))
        else:
            ids.append(row + [pad_id] * gap)
            mask.append([1] * len(row) + [0] * gap)
    return torch.tensor(ids), torch.tensor(mask)


def logits_of(model, ids, mask):
    """Logits [B, T, V] in the model's dtype; positions count real tokens."""
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    return model(input_ids=ids, attention_mask=mask, position_ids=positions, use_cache=False).logits


@torch.no_grad()
def golden_logits(model, ids, mask):
    """Logits as float32, zero at the pads."""
    return logits_of(model, ids, mask).float() * mask[..., None]


def loss_of(model, ids, mask):
    """Mean next-token cross-entropy over real targets, of right-padded rows."""
    logits = logits_of(model, ids, mask).float()
    targets = ids[:, 1:].masked_fill(mask[:, 1:] == 0, -100)
    return cross_entropy(logits[:, :-1].flatten(0, 1), targets.flatten(), ignore_index=-100)


def gradients(model, ids, mask) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """The loss as [1], and its float32 gradient for every parameter by name."""
    model.zero_grad(set_to_none=True)
    loss = loss_of(model, ids, mask)
    loss.backward()
    grads = {name: p.grad.float() for name, p in model.named_parameters()}
    return loss.detach().reshape(1), grads


# Files -----------------------------------------------------------------------


def write_json(path: Path, value) -> None:
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def write_tensors(path: Path, tensors: dict) -> None:
    save_file({k: v.contiguous() for k, v in tensors.items()}, path)


def fresh(folder: Path) -> Path:
    """The folder, empty."""
    folder.mkdir(parents=True, exist_ok=True)
    for file in folder.iterdir():
        file.unlink()
    return folder


def readable(folder: Path) -> None:
    """safetensors writes files that only their owner may read."""
    for file in folder.iterdir():
        file.chmod(0o644)


def megabytes(folder: Path) -> float:
    return sum(f.stat().st_size for f in folder.rglob("*") if f.is_file()) / 1e6
