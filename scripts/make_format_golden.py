#!/usr/bin/env python3
"""Writes tests/golden/formats: files of the reference implementations that the format readers are tested against.

Needs the PyPI packages gguf, numpy, safetensors and torch (for bfloat16). The output is deterministic and committed.

- <type>.blocks, <type>.f32: raw tensor bytes and the floats `gguf` makes of them (random blocks, extreme scales)
- tiny_llama.gguf, tiny_gpt2.gguf: written by GGUFWriter; tiny_llama's q and k are permuted as llama.cpp does
- types.gguf: a matrix of every quantised type
- split/tiny-0000?-of-00003.gguf: tiny_llama.gguf in three parts
- llama_hf/: one safetensors file; gpt2_hf/: two shards with an index, Conv1D weights

Element [r, c] of the matrix named by `value(seed, r, c)` is computable, so the tests need no copy of the weights.
"""
import argparse
import json
import pathlib

import gguf
import numpy as np
import torch
from gguf import GGMLQuantizationType as Q
from safetensors.torch import save_file

HEADS, KV_HEADS, HEAD_DIM, HIDDEN, FFN, VOCAB = 2, 1, 16, 32, 64, 48


def value(seed, rows, cols):
    """[rows, cols] of small integers / 8: exact in every plain type. The tests have the same formula."""
    r = np.arange(rows).reshape(-1, 1)
    c = np.arange(cols).reshape(1, -1)
    return (((r * 7 + c * 3 + seed * 11) % 251 - 125) / 8).astype(np.float32)


def vector(seed, n):
    return value(seed, n, 1).reshape(n)


def permute(weights, heads):
    """llama.cpp's convert_hf_to_gguf.py, LlamaModel.permute."""
    return (weights.reshape(heads, 2, weights.shape[0] // heads // 2, *weights.shape[1:])
            .swapaxes(1, 2).reshape(weights.shape))


# Where in a block the half-precision scales are.
HALVES = {Q.Q4_0: (0,), Q.Q4_1: (0, 2), Q.Q8_0: (0,), Q.Q5_0: (0,), Q.Q5_1: (0, 2), Q.IQ4_NL: (0,), Q.Q2_K: (80, 82),
          Q.Q3_K: (108,), Q.Q4_K: (0, 2), Q.Q5_K: (0, 2), Q.Q6_K: (208,)}


def save_blocks(out, kind, blocks, floats):
    blocks.tofile(out / f"{kind.name.lower()}.blocks")
    floats.astype(np.float32).tofile(out / f"{kind.name.lower()}.f32")


def make_q8_k(rng):
    """gguf does not dequantise Q8_K: a float scale, 256 signed bytes and 16 sums of them."""
    blocks = rng.integers(0, 256, (16, gguf.GGML_QUANT_SIZES[Q.Q8_K][1]), dtype=np.uint8)
    scales = (rng.standard_normal((16, 1)) * 0.05).astype(np.float32)
    scales[:3, 0] = (0, 1e-42, 3e38)
    blocks[:, :4] = scales.view(np.uint8)
    with np.errstate(all="ignore"):
        return blocks, scales * np.ascontiguousarray(blocks[:, 4:260]).view(np.int8).astype(np.float32)


EXTREME = np.array([0x0000, 0x8000, 0x0001, 0x8001, 0x03ff, 0x0400, 0x7bff, 0xfbff, 0x7c00, 0xfc00], np.uint16)


def write_quantised(out, rng, kind):
    block_elements, block_bytes = gguf.GGML_QUANT_SIZES[kind]
    count = 48 if block_elements == 32 else 16
    blocks = rng.integers(0, 256, (count, block_bytes), dtype=np.uint8)
    for i, offset in enumerate(HALVES[kind]):
        half = (rng.standard_normal(count) * 0.05).astype(np.float16)
        half[:EXTREME.size] = np.roll(EXTREME, i).view(np.float16)
        blocks[:, offset:offset + 2] = half.view(np.uint8).reshape(count, 2)
    with np.errstate(all="ignore"):
        save_blocks(out, kind, blocks, gguf.dequantize(blocks.reshape(-1), kind))


def write_plain(out, rng):
    half = np.concatenate([EXTREME, rng.integers(0, 65536, 502, dtype=np.uint16)])
    for kind in (Q.F16, Q.BF16):
        raw = half.view(np.float16) if kind == Q.F16 else half.view(np.uint8)
        save_blocks(out, kind, half, gguf.dequantize(raw, kind))


def write_blocks(out):
    rng = np.random.default_rng(7)
    for kind in (Q.Q4_0, Q.Q4_1, Q.Q8_0):
        write_quantised(out, rng, kind)
    write_plain(out, rng)
    for kind in (Q.Q5_0, Q.Q5_1, Q.IQ4_NL, Q.Q2_K, Q.Q3_K, Q.Q4_K, Q.Q5_K, Q.Q6_K):
        write_quantised(out, rng, kind)
    save_blocks(out, Q.Q8_K, *make_q8_k(rng))


def write_llama(path, **split):
    w = gguf.GGUFWriter(path, "llama", **split)
    w.add_name("tiny llama")
    w.add_context_length(128)
    w.add_embedding_length(HIDDEN)
    w.add_block_count(1)
    w.add_feed_forward_length(FFN)
    w.add_head_count(HEADS)
    w.add_head_count_kv(KV_HEADS)
    w.add_layer_norm_rms_eps(1e-5)
    w.add_rope_freq_base(50000.0)
    w.add_token_list([f"t{i}" for i in range(VOCAB)])
    w.add_array("winnow.test.numbers", [1.5, 2.5])
    w.add_tensor("token_embd.weight", value(1, VOCAB, HIDDEN).astype(np.float16))
    w.add_tensor("output_norm.weight", vector(2, HIDDEN))
    b = "blk.0."
    w.add_tensor(b + "attn_norm.weight", vector(3, HIDDEN))
    w.add_tensor(b + "attn_q.weight", permute(value(4, HIDDEN, HIDDEN), HEADS))
    w.add_tensor(b + "attn_k.weight", permute(value(5, KV_HEADS * HEAD_DIM, HIDDEN), KV_HEADS))
    w.add_tensor(b + "attn_q.bias", permute(vector(13, HIDDEN), HEADS))
    w.add_tensor(b + "attn_k.bias", permute(vector(14, KV_HEADS * HEAD_DIM), KV_HEADS))
    w.add_tensor(b + "attn_v.weight", value(6, KV_HEADS * HEAD_DIM, HIDDEN))
    w.add_tensor(b + "attn_output.weight", value(7, HIDDEN, HIDDEN))
    w.add_tensor(b + "ffn_norm.weight", vector(8, HIDDEN))
    w.add_tensor(b + "ffn_gate.weight", value(9, FFN, HIDDEN))
    bf16 = gguf.quantize(value(10, FFN, HIDDEN), Q.BF16)
    w.add_tensor(b + "ffn_up.weight", bf16, raw_dtype=Q.BF16)
    w.add_tensor(b + "ffn_down.weight", value(11, HIDDEN, FFN))
    finish(w)


def write_types(out):
    """A model's file with one tensor of every quantised type: rows of 256, from the .blocks files."""
    w = gguf.GGUFWriter(out / "types.gguf", "llama")
    w.add_context_length(16)
    w.add_embedding_length(256)
    w.add_block_count(1)
    w.add_feed_forward_length(256)
    w.add_head_count(2)
    w.add_vocab_size(4)
    w.add_layer_norm_rms_eps(1e-5)
    for layer, kind in enumerate((*HALVES, Q.Q8_K)):
        block_elements, block_bytes = gguf.GGML_QUANT_SIZES[kind]
        row_bytes = 256 // block_elements * block_bytes
        blocks = np.fromfile(out / f"{kind.name.lower()}.blocks", dtype=np.uint8)[:4 * row_bytes]
        w.add_tensor(f"blk.{layer}.ffn_down.weight", blocks.reshape(4, row_bytes), raw_dtype=kind)
    finish(w)


def write_gpt2(out):
    w = gguf.GGUFWriter(out / "tiny_gpt2.gguf", "gpt2")
    w.add_context_length(16)
    w.add_embedding_length(8)
    w.add_block_count(1)
    w.add_feed_forward_length(32)
    w.add_head_count(2)
    w.add_layer_norm_eps(1e-5)
    w.add_tensor("token_embd.weight", value(1, 20, 8))
    w.add_tensor("position_embd.weight", value(2, 16, 8))
    for name, seed in (("output_norm", 3), ("blk.0.attn_norm", 4), ("blk.0.ffn_norm", 5)):
        w.add_tensor(name + ".weight", vector(seed, 8))
        w.add_tensor(name + ".bias", vector(seed + 20, 8))
    for name, seed, rows, cols in (("attn_qkv", 6, 24, 8), ("attn_output", 7, 8, 8), ("ffn_up", 8, 32, 8),
                                   ("ffn_down", 9, 8, 32)):
        w.add_tensor(f"blk.0.{name}.weight", value(seed, rows, cols))
        w.add_tensor(f"blk.0.{name}.bias", vector(seed + 20, rows))
    finish(w)


def finish(writer):
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def tensor(array, dtype=torch.float32):
    return torch.from_numpy(np.ascontiguousarray(array)).to(dtype)


def write_hugging_face(out):
    folder = out / "llama_hf"
    folder.mkdir(exist_ok=True)
    config = {"model_type": "llama", "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2,
              "num_key_value_heads": 1, "intermediate_size": 12, "vocab_size": 10, "rms_norm_eps": 1e-6,
              "rope_parameters": {"rope_theta": 20000.0, "rope_type": "linear", "factor": 2.0}}
    (folder / "config.json").write_text(json.dumps(config, indent=1) + "\n")
    save_file({"model.embed_tokens.weight": tensor(value(1, 10, 8), torch.bfloat16),
               "model.norm.weight": tensor(vector(2, 8), torch.float16),
               "model.layers.0.self_attn.q_proj.weight": tensor(value(4, 8, 8)),
               "model.layers.0.self_attn.rotary_emb.inv_freq": tensor(vector(5, 2)),
               "position_ids": torch.arange(4)}, folder / "model.safetensors", metadata={"format": "pt"})

    folder = out / "gpt2_hf"
    folder.mkdir(exist_ok=True)
    config = {"model_type": "gpt2", "n_embd": 8, "n_layer": 1, "n_head": 2, "n_positions": 16, "vocab_size": 20,
              "activation_function": "gelu_new", "layer_norm_epsilon": 1e-5}
    (folder / "config.json").write_text(json.dumps(config, indent=1) + "\n")
    shards = [{"wte.weight": tensor(value(1, 20, 8)), "wpe.weight": tensor(value(2, 16, 8)),
               "h.0.attn.bias": torch.ones(1, 1, 4, 4, dtype=torch.uint8),
               "h.0.attn.c_attn.weight": tensor(value(6, 24, 8).T), "h.0.attn.c_attn.bias": tensor(vector(26, 24))},
              {"h.0.mlp.c_fc.weight": tensor(value(8, 32, 8).T, torch.float16),
               "h.0.mlp.c_proj.weight": tensor(value(9, 8, 32).T, torch.bfloat16), "ln_f.weight": tensor(vector(3, 8))}]
    weight_map = {}
    for i, shard in enumerate(shards):
        name = f"model-{i + 1:05}-of-00002.safetensors"
        save_file(shard, folder / name, metadata={"format": "pt"})
        weight_map.update({key: name for key in shard})
    index = {"metadata": {"total_size": 1}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=1) + "\n")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    default = pathlib.Path(__file__).resolve().parent.parent / "tests" / "golden" / "formats"
    parser.add_argument("--out", type=pathlib.Path, default=default)
    out = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)
    write_blocks(out)
    write_llama(out / "tiny_llama.gguf")
    (out / "split").mkdir(exist_ok=True)
    write_llama(out / "split" / "tiny.gguf", split_max_tensors=5)
    write_types(out)
    write_gpt2(out)
    write_hugging_face(out)


if __name__ == "__main__":
    main()
