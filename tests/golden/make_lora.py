"""Writes tests/fixtures/lora/golden.safetensors: the gradients of LoRA adapters by torch.

Models are those of fixtures/parity (llama for maps stored [out, in], gpt2 for [in, out], gpt_neox for one projection
of queries, keys and values). For each, every projection of attention and feed-forward net has A and B with random
numbers, rank 3, alpha 6; the loss is the mean next-token cross-entropy of the rows in `CASE.ids` [2, 11] (as floats), and written
are `CASE.NAME.lora_a`, `.lora_b` and their gradients, `grad.CASE.NAME.lora_a` and so on; NAME as in model.safetensors.

The adapters are hooks behind the modules: `out + alpha / rank * (x A^T) B^T`.
"""

import numpy as np
import torch
from torch.nn.functional import cross_entropy
from transformers import AutoModelForCausalLM

import build

OUT = build.FIXTURES / "lora"
RANK, ALPHA = 3, 6.0
TARGETS = {
    "llama": ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"),
    "gpt2": ("c_attn", "c_proj", "c_fc"),
    "gpt_neox": ("query_key_value", "attention.dense", "dense_h_to_4h", "dense_4h_to_h"),
}


def adapt(module, a, b):
    module.register_forward_hook(lambda _, x, out: out + ALPHA / RANK * (x[0] @ a.T) @ b.T)


def case(name):
    model = AutoModelForCausalLM.from_pretrained(
        build.FIXTURES / "parity" / name, dtype=torch.float32, attn_implementation="eager"
    )
    model.requires_grad_(False)
    random = np.random.RandomState(build.seed_of("lora", name))
    numbers = lambda *shape: torch.tensor(random.standard_normal(shape) * 0.1, dtype=torch.float32).requires_grad_()
    out, learnt = {}, {}
    for path, module in model.named_modules():
        if not path.endswith(TARGETS[name]):
            continue
        width, height = module.weight.shape if name == "gpt2" else reversed(module.weight.shape)
        a, b = numbers(RANK, width), numbers(height, RANK)
        adapt(module, a, b)
        learnt |= {f"{path}.weight.lora_a": a, f"{path}.weight.lora_b": b}
    ids = torch.tensor(random.randint(0, model.config.vocab_size, (2, 11)))
    logits = model(ids).logits
    loss = cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten())
    loss.backward()
    out[f"{name}.ids"] = ids.float()
    out[f"{name}.loss"] = loss.detach().reshape(1)
    for key, tensor in learnt.items():
        assert tensor.grad.norm() > 1e-4, key
        out |= {f"{name}.{key}": tensor.detach(), f"grad.{name}.{key}": tensor.grad}
    return out


def main():
    build.set_up()
    folder = build.fresh(OUT)
    out = {}
    for name in TARGETS:
        out |= case(name)
    build.write_tensors(folder / "golden.safetensors", out)
    build.readable(folder)
    print(f"{build.megabytes(OUT):.2f} MB in {OUT}")


if __name__ == "__main__":
    main()
