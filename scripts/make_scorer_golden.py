#!/usr/bin/env python3
"""Writes tests/golden/scorers: a tiny learned scorer, hidden states, and the scores PyTorch gives them.

Needs the PyPI packages safetensors and torch. The output is deterministic and committed.

- scorer.safetensors: two stages (layers 4 and 7) of Linear(24, 6), GELU (erf), Linear(6, 1)
- cases.safetensors: hidden [300, 24], more rows than the engine scores at a time; stage.L.f32 [300], computed
  in double; stage.L.bf16 [300], likewise, with inputs, weights and stored activations rounded to bfloat16
"""
import argparse
import pathlib

import torch
from safetensors.torch import save_file

HIDDEN, ROWS, STAGES = 24, 300, (4, 7)


def make_scorer(generator):
    def random(*shape, scale):
        return torch.randn(*shape, generator=generator) * scale

    tensors = {}
    for layer in STAGES:
        inner = HIDDEN // 4
        tensors[f"stage.{layer}.fc1.weight"] = random(inner, HIDDEN, scale=HIDDEN ** -0.5)
        tensors[f"stage.{layer}.fc1.bias"] = random(inner, scale=0.5)
        tensors[f"stage.{layer}.fc2.weight"] = random(1, inner, scale=inner ** -0.5)
        tensors[f"stage.{layer}.fc2.bias"] = random(1, scale=0.5)
    return tensors


def scores(tensors, layer, hidden, stored):
    """`stored` rounds what the engine keeps in its compute dtype; sums are exact."""
    def linear(x, name):
        weight = stored(tensors[f"stage.{layer}.{name}.weight"].double())
        return x @ weight.T + tensors[f"stage.{layer}.{name}.bias"].double()

    inner = stored(linear(stored(hidden.double()), "fc1"))
    inner = stored(torch.nn.functional.gelu(inner))
    return linear(inner, "fc2").reshape(-1).float()


def main():
    root = pathlib.Path(__file__).resolve().parent.parent
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=pathlib.Path, default=root / "tests/golden/scorers")
    out = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)
    generator = torch.Generator().manual_seed(11)
    tensors = make_scorer(generator)
    hidden = torch.randn(ROWS, HIDDEN, generator=generator)
    cases = {"hidden": hidden}
    for layer in STAGES:
        cases[f"stage.{layer}.f32"] = scores(tensors, layer, hidden, lambda x: x)
        cases[f"stage.{layer}.bf16"] = scores(tensors, layer, hidden, lambda x: x.bfloat16().double())
    save_file(tensors, out / "scorer.safetensors")
    save_file(cases, out / "cases.safetensors")


if __name__ == "__main__":
    main()
