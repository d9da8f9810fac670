"""Writes tests/fixtures/statistics/golden.json: numpy's bootstrap intervals and paired permutation tests.

Each case has two systems' numbers a row: `low` and `high` are percentiles of 400,000 resampled means of
`a`, `deviation` their standard deviation, `p` the share of as many random choices of signs whose sum is
as far from 0 as that of `a - b`.
"""

import json

import numpy as np

import build

DRAWS = 400_000


def case(rng, rows, shift, law):
    a = np.round(law(rng, rows), 6)
    b = np.round(a + shift + 0.1 * rng.standard_normal(rows), 6)
    means = np.concatenate([a[rng.integers(0, rows, (4000, rows))].mean(1) for _ in range(DRAWS // 4000)])
    low, high = np.percentile(means, [2.5, 97.5])
    d = a - b
    sums = np.concatenate([(rng.choice([-1.0, 1.0], (4000, rows)) * d).sum(1) for _ in range(DRAWS // 4000)])
    p = np.mean(np.abs(sums) >= abs(d.sum()) - 1e-9)
    return {
        "a": a.tolist(),
        "b": b.tolist(),
        "low": low,
        "high": high,
        "deviation": means.std(),
        "p": float(p),
    }


def main():
    rng = np.random.default_rng(3)
    uniform = lambda rng, n: rng.uniform(0, 1, n)
    skewed = lambda rng, n: rng.exponential(2, n)
    cases = [case(rng, 50, 0.03, uniform), case(rng, 200, 0.02, skewed), case(rng, 30, 0.0, skewed)]
    folder = build.FIXTURES / "statistics"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "golden.json").write_text(json.dumps(cases, indent=1) + "\n")


if __name__ == "__main__":
    main()
