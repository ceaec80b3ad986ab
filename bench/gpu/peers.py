#!/usr/bin/env python3
"""What PyTorch does on the same GPU: transformers' prefill and decode (SDPA). Attention alone: sparse_attention_peers.py.

  peers.py [--lengths 4096,32768] [--decode]        JSON on stdout

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


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--lengths", default="4096,32768")
    parser.add_argument("--decode", action="store_true")
    arguments = parser.parse_args()
    lengths = [int(n) for n in arguments.lengths.split(",") if n]
    report = {"torch": torch.__version__, "transformers": transformers.__version__,
              "cudnn": torch.backends.cudnn.version(), "gpu": torch.cuda.get_device_name(), "prefill": {}}
    model = qwen2_7b()
    for length in lengths:
        report["prefill"][length] = prefill(model, length)
        print(f"prefill {length}: {report['prefill'][length]['ms']:.1f} ms", file=sys.stderr, flush=True)
    if arguments.decode:
        report["decode"] = {4096: decode(model, 4096)}
        print(f"decode: {report['decode'][4096]['ms']:.2f} ms", file=sys.stderr, flush=True)
    json.dump(report, sys.stdout, indent=1)


main()
