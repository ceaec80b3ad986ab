#!/usr/bin/env python3
"""PyTorch's attention beside sparse_attention_bench: cuDNN (dense causal) and FlexAttention (random block masks).

    sparse_attention_peers.py OUT.json [--flex] [--long]

Qwen2-7B's attention: 28 heads, 4 kv heads, head_dim 128, bfloat16. Medians of CUDA event pairs, random inputs.
"""

import json
import statistics
import sys

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

HEADS, KV_HEADS, DIM = 28, 4, 128


def median_ms(run, repeats):
    times = []
    for i in range(repeats + 3):
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        begin.record()
        run()
        end.record()
        end.synchronize()
        if i >= 3:
            times.append(begin.elapsed_time(end))
    return statistics.median(times)


def inputs(tokens, heads=HEADS, kv_heads=KV_HEADS, dim=DIM):
    shape = lambda n: (1, n, tokens, dim)
    return [torch.randn(shape(n), device="cuda", dtype=torch.bfloat16) for n in (heads, kv_heads, kv_heads)]


def cudnn(tokens, repeats, dim=DIM):
    q, k, v = inputs(tokens, dim=dim)
    with sdpa_kernel(SDPBackend.CUDNN_ATTENTION):
        return median_ms(lambda: scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True), repeats)


def block_mask(tokens, density, block=128):
    from torch.nn.attention.flex_attention import BlockMask

    n = tokens // block
    index = torch.arange(n, device="cuda")
    listed = torch.rand(1, HEADS, n, n, device="cuda") < density
    listed[..., 0] = True
    listed &= index[None, :] < index[:, None]  # below the diagonal; the diagonal itself is partial
    causal = listed.sum() + HEADS * n
    full_indices = torch.argsort(listed.int(), dim=-1, descending=True, stable=True).to(torch.int32)
    diagonal = index.to(torch.int32)[None, None, :, None].expand(1, HEADS, n, 1)
    indices = torch.cat([diagonal, torch.zeros(1, HEADS, n, n - 1, device="cuda", dtype=torch.int32)], -1).contiguous()
    mask = BlockMask.from_kv_blocks(
        torch.ones(1, HEADS, n, device="cuda", dtype=torch.int32), indices,
        listed.sum(-1).to(torch.int32), full_indices, BLOCK_SIZE=block,
        mask_mod=lambda b, h, q, kv: q >= kv, seq_lengths=(tokens, tokens))
    return mask, float(causal) / (HEADS * n * (n + 1) / 2)


def flex(tokens, densities):
    from torch.nn.attention.flex_attention import flex_attention

    compiled = torch.compile(flex_attention)
    q, k, v = inputs(tokens)
    for density in densities:
        mask, share = block_mask(tokens, density)
        ms = median_ms(lambda: compiled(q, k, v, block_mask=mask, enable_gqa=True), 10)
        yield {"peer": "FlexAttention", "tokens": tokens, "head_dim": DIM, "density": share, "ms": ms}


def main():
    rows = []

    def add(row):
        rows.append(row)
        print("{peer:14} tokens {tokens:7} dim {head_dim:3} density {density:.3f} {ms:8.3f} ms".format(**row), flush=True)

    for tokens, dim, repeats in [(8192, 128, 15), (32768, 128, 15), (32768, 64, 5), (32768, 96, 5)]:
        add({"peer": "cuDNN", "tokens": tokens, "head_dim": dim, "density": 1.0, "ms": cudnn(tokens, repeats, dim)})
    if "--long" in sys.argv:
        add({"peer": "cuDNN", "tokens": 131072, "head_dim": 128, "density": 1.0, "ms": cudnn(131072, 3)})
    if "--flex" in sys.argv:
        for row in flex(32768, (1.0, 0.25, 0.10)):
            add(row)
    with open(sys.argv[1], "w") as file:
        json.dump({"torch": torch.__version__, "device": torch.cuda.get_device_name(), "peers": rows}, file, indent=1)


if __name__ == "__main__":
    main()
