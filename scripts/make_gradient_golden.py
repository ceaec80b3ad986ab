#!/usr/bin/env python3
"""Gradients of the tiny models (scripts/make_tiny_models.py) as PyTorch computes them, for tests/train.

    python3 scripts/make_gradient_golden.py [-o tests/golden/gradients] [NAME...]     (torch, transformers, safetensors)

tests/golden/gradients/NAME.safetensors, of the mean cross-entropy of a window of random tokens:
    tokens     I32 [T]
    loss       F32 [1]
    saliency   F32 [layers, T]             |sum over hidden of gradient x activation| of each layer's input
    hidden0    F32 [T, model_dim]          gradient by the first layer's input
    attention  F32 [layers, heads]         sum over tokens and head_dim of (gradient of the heads' output)^2

float32, eager attention, one thread. Gemma's norms compute in float32 anyway; its embeddings are scaled in the weights' type.
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from safetensors.numpy import save_file
from transformers import AutoModelForCausalLM

ROOT = Path(__file__).resolve().parent.parent
TOKENS = 40


def decoder_layers(model):
    base = model.model if hasattr(model, "model") else model.transformer
    return base.layers if hasattr(base, "layers") else base.h


def output_projection(layer):
    return layer.attn.c_proj if hasattr(layer, "attn") else layer.self_attn.o_proj


def gradients(model, tokens):
    inputs, attended = [], []

    def keep(store):
        def hook(module, args, kwargs):
            hidden = args[0] if args else kwargs["hidden_states"]
            if not hidden.requires_grad:
                hidden.requires_grad_(True)
            hidden.retain_grad()
            store.append(hidden)
            return None
        return hook

    handles = []
    for layer in decoder_layers(model):
        handles.append(layer.register_forward_pre_hook(keep(inputs), with_kwargs=True))
        handles.append(output_projection(layer).register_forward_pre_hook(keep(attended), with_kwargs=True))
    ids = torch.tensor([tokens])
    logits = model(ids, use_cache=False).logits[0]
    loss = torch.nn.functional.cross_entropy(logits[:-1].float(), ids[0, 1:])
    loss.backward()
    for handle in handles:
        handle.remove()
    heads = model.config.num_attention_heads
    saliency = torch.stack([(h.grad[0] * h[0]).sum(-1).abs() for h in inputs])
    fisher = torch.stack([a.grad[0].reshape(len(tokens), heads, -1).square().sum((0, 2)) for a in attended])
    out = {"tokens": np.array(tokens, dtype=np.int32), "loss": loss.detach().reshape(1), "saliency": saliency.detach(),
           "hidden0": inputs[0].grad[0], "attention": fisher.detach()}
    return {name: np.ascontiguousarray(t if isinstance(t, np.ndarray) else t.float().numpy()) for name, t in out.items()}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--out", default=ROOT / "tests/golden/gradients", type=Path)
    parser.add_argument("names", nargs="*", metavar="NAME", help="models (default: all)")
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    args.out.mkdir(parents=True, exist_ok=True)
    models = ROOT / "tests/golden/models"
    names = args.names or sorted(p.parent.name for p in models.glob("*/config.json"))
    for name in names:
        model = AutoModelForCausalLM.from_pretrained(models / name, dtype=torch.float32, attn_implementation="eager").eval()
        if model.config.model_type == "gemma3_text":  # multiplied in the weights' type, bfloat16
            model.model.embed_tokens.embed_scale.data = torch.tensor(model.config.hidden_size**0.5).bfloat16().float()
        for parameter in model.parameters():
            parameter.requires_grad_(False)
        generator = torch.Generator().manual_seed(7)
        tokens = torch.randint(0, model.config.vocab_size, (TOKENS,), generator=generator).tolist()
        golden = gradients(model, tokens)
        save_file(golden, args.out / f"{name}.safetensors")
        (args.out / f"{name}.safetensors").chmod(0o644)
        print(f"{name}: loss {golden['loss'][0]:.4f}, {(args.out / f'{name}.safetensors').stat().st_size} bytes")


if __name__ == "__main__":
    main()
