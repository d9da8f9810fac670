"""Writes tests/fixtures/adamw/golden.safetensors: ten AdamW steps by torch, clipped, with a rate that changes.

`w` decays, `b` does not. `grads.{n}.{name}` go in, `after.{n}.{name}` come out, `lr` and `norm` beside them.
"""

import numpy as np
import torch
from safetensors.torch import save_file

import build

STEPS = 10


def main():
    build.set_up()
    random = np.random.RandomState(11)

    def normal(shape):
        return torch.tensor(random.standard_normal(shape), dtype=torch.float32)

    shapes = {"w": (6, 5), "b": (5,)}
    params = {name: torch.nn.Parameter(normal(shape)) for name, shape in shapes.items()}
    out = {f"start.{name}": p.detach().clone() for name, p in params.items()}
    groups = [
        {"params": [params["w"]], "weight_decay": 0.1},
        {"params": [params["b"]], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.95), eps=1e-8)
    rates, norms = [], []
    for n in range(STEPS):
        rates.append(0.01 * (n + 1) / STEPS)
        for group in optimizer.param_groups:
            group["lr"] = rates[-1]
        for name, p in params.items():
            # Some steps are clipped and some are not.
            p.grad = normal(shapes[name]) * (0.05 if n % 3 == 0 else 2.0)
            out[f"grads.{n}.{name}"] = p.grad.clone()
        norms.append(torch.nn.utils.clip_grad_norm_(params.values(), 1.0).item())
        optimizer.step()
        for name, p in params.items():
            out[f"after.{n}.{name}"] = p.detach().clone()
    out["lr"] = torch.tensor(np.array(rates))
    out["norm"] = torch.tensor(np.array(norms))
    folder = build.FIXTURES / "adamw"
    folder.mkdir(parents=True, exist_ok=True)
    save_file(out, folder / "golden.safetensors")


if __name__ == "__main__":
    main()
