#!/usr/bin/env python3
"""What PyTorch does on the same GPU: transformers' prefill and decode (SDPA), cuDNN's and FlexAttention's attention.

  peers.py [--lengths 4096,32768] [--decode] [--attention]        JSON on stdout

A model of Qwen2-7B's shape with random weights, bf16, logits of the last token only: what a server would run. Needs
torch and transformers.
"""
import argparse
import json
import statistics
import sys
import time

import torch
import transformers


def timed(run, repeat=5):
    run()
    torch.cuda.synchronize()
    samples = []
    for _ in range(repeat):
        start = time.perf_counter()
        run()
        torch.cuda.synchronize()
        samples.append(1e3 * (time.perf_counter() - start))
    return {"ms": statistics.median(samples), "samples_ms": samples}


def qwen2_7b():
    config = transformers.Qwen2Config(
        hidden_size=3584, intermediate_size=18944, num_hidden_layers=28, num_attention_heads=28, num_key_value_heads=4,
        vocab_size=152064, max_position_embeddings=131072, rms_norm_eps=1e-6, tie_word_embeddings=False)
    torch.manual_seed(0)
    torch.set_default_dtype(torch.bfloat16)
    with torch.device("cuda"):
        model = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="sdpa")
    return model.eval()


@torch.inference_mode()
def prefill(model, length):
    tokens = torch.randint(0, 150000, (1, length), device="cuda")
    return timed(lambda: model(tokens, use_cache=True, logits_to_keep=1), 5 if length <= 32768 else 2)


@torch.inference_mode()
def decode(model, length, steps=16):
    tokens = torch.randint(0, 150000, (1, length), device="cuda")
    cache = model(tokens, use_cache=True, logits_to_keep=1).past_key_values
    one = tokens[:, :1]
    for _ in range(2):
        model(one, past_key_values=cache, use_cache=True)
    torch.cuda.synchronize()
    start = time.perf_counter()
    for _ in range(steps):
        model(one, past_key_values=cache, use_cache=True)
        torch.cuda.synchronize()
    return {"ms": 1e3 * (time.perf_counter() - start) / steps}


@torch.inference_mode()
def attention(length):
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.nn.functional import scaled_dot_product_attention
    q = torch.randn(1, 28, length, 128, device="cuda", dtype=torch.bfloat16)
    k, v = (torch.randn(1, 4, length, 128, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    result = {}
    for name, backend in (("cudnn", SDPBackend.CUDNN_ATTENTION), ("flash2", SDPBackend.FLASH_ATTENTION)):
        try:
            with sdpa_kernel(backend):
                result[name] = timed(lambda: scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True))
        except RuntimeError as error:
            result[name] = {"error": str(error)[:200]}
    return result


@torch.inference_mode()
def flex(length, density):
    from torch.nn.attention.flex_attention import BlockMask, flex_attention
    q = torch.randn(1, 28, length, 128, device="cuda", dtype=torch.bfloat16)
    k, v = (torch.randn(1, 4, length, 128, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    blocks = length // 128
    torch.manual_seed(1)
    below = torch.rand(1, 1, blocks, blocks, device="cuda") < density
    listed = (below.tril(-1) | torch.eye(blocks, device="cuda", dtype=torch.bool)).int()
    counts = listed.sum(-1).int()
    order = torch.argsort(listed, dim=-1, descending=True, stable=True).int()
    mask = BlockMask.from_kv_blocks(counts, order, BLOCK_SIZE=128,
                                    mask_mod=lambda b, h, i, j: i >= j)
    compiled = torch.compile(flex_attention)
    result = timed(lambda: compiled(q, k, v, block_mask=mask, enable_gqa=True))
    result["density"] = float(listed.sum()) / (blocks * (blocks + 1) / 2)
    return result


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--lengths", default="4096,32768")
    parser.add_argument("--decode", action="store_true")
    parser.add_argument("--attention", action="store_true")
    parser.add_argument("--flex", action="store_true")
    arguments = parser.parse_args()
    lengths = [int(n) for n in arguments.lengths.split(",") if n]
    report = {"torch": torch.__version__, "transformers": transformers.__version__,
              "cudnn": torch.backends.cudnn.version(), "gpu": torch.cuda.get_device_name(), "prefill": {},
              "attention": {}, "flex": {}}
    model = qwen2_7b()
    for length in lengths:
        report["prefill"][length] = prefill(model, length)
        print(f"prefill {length}: {report['prefill'][length]['ms']:.1f} ms", file=sys.stderr, flush=True)
    if arguments.decode:
        report["decode"] = {4096: decode(model, 4096)}
        print(f"decode: {report['decode'][4096]['ms']:.2f} ms", file=sys.stderr, flush=True)
    del model
    torch.cuda.empty_cache()
    if arguments.attention:
        for length in lengths:
            report["attention"][length] = attention(length)
            print(f"attention {length}: {report['attention'][length]}", file=sys.stderr, flush=True)
    if arguments.flex:
        for density in (0.25, 0.10):
            report["flex"][str(density)] = flex(32768, density)
            print(f"flex {density}: {report['flex'][str(density)]}", file=sys.stderr, flush=True)
    json.dump(report, sys.stdout, indent=1)


main()
