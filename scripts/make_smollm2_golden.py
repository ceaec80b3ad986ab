#!/usr/bin/env python3
"""Golden logits of the demo model, computed by transformers in float32.

The GGUF is dequantised into a LlamaForCausalLM, so the golden file holds what an exact engine gets from the very same
weights. Needs torch, transformers, gguf, safetensors, tokenizers:

    python3 scripts/make_smollm2_golden.py --gguf "$(scripts/get_model.sh smollm2-135m)" [--hf-out build/smollm2-hf]

tests/golden/models/smollm2.safetensors:
    prompt          I32 [2000]   the first tokens of the GPL-3
    last_logits     F32 [vocab]  after the last prompt token
    probe_pos       I32 [P]      every 50th position (49, 99, ...)
    probe_argmax    I32 [P]      the most likely next token there,
    probe_logit     F32 [P]      its logit,
    probe_lse       F32 [P]      and the logsumexp over the vocabulary
    decode_tokens   I32 [32]     greedy continuation; [0] is the argmax of last_logits
    decode_max      F32 [32]     the logit of each chosen token
    decode_margin   F32 [32]     ... minus the runner-up's: a small margin may flip in lower precision
"""

import argparse
import json
from pathlib import Path

import gguf
import numpy as np
import torch
from safetensors.numpy import save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM

ROOT = Path(__file__).resolve().parent.parent
PROMPT_TOKENS, PROBE_EVERY, DECODE_TOKENS = 2000, 50, 32


def metadata(reader, key):
    return reader.fields[key].contents()


def build_config(reader):
    get = lambda key: metadata(reader, "llama." + key)
    return LlamaConfig(
        vocab_size=get("vocab_size"),
        hidden_size=get("embedding_length"),
        intermediate_size=get("feed_forward_length"),
        num_hidden_layers=get("block_count"),
        num_attention_heads=get("attention.head_count"),
        num_key_value_heads=get("attention.head_count_kv"),
        head_dim=get("rope.dimension_count"),
        max_position_embeddings=get("context_length"),
        rms_norm_eps=float(np.float32(get("attention.layer_norm_rms_epsilon"))),
        rope_parameters={"rope_type": "default", "rope_theta": get("rope.freq_base")},
        tie_word_embeddings=True,
        bos_token_id=metadata(reader, "tokenizer.ggml.bos_token_id"),
        eos_token_id=metadata(reader, "tokenizer.ggml.eos_token_id"),
        pad_token_id=metadata(reader, "tokenizer.ggml.padding_token_id"),
    )


def unpermute(weight, heads):
    """Undoes llama.cpp's row order for interleaved rope: [heads, d/2, 2] -> [heads, 2, d/2]."""
    rows, cols = weight.shape
    return weight.reshape(heads, rows // heads // 2, 2, cols).swapaxes(1, 2).reshape(rows, cols)


def build_state(reader, config):
    names = {
        "attn_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm",
        "attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj", "attn_v": "self_attn.v_proj",
        "attn_output": "self_attn.o_proj",
        "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj",
    }
    state = {}
    for tensor in reader.tensors:
        data = gguf.quants.dequantize(tensor.data, tensor.tensor_type).astype(np.float32)
        data = data.reshape([int(n) for n in reversed(tensor.shape)])
        if tensor.name == "token_embd.weight":
            name = "model.embed_tokens.weight"
        elif tensor.name == "output_norm.weight":
            name = "model.norm.weight"
        else:
            _, layer, part, _ = tensor.name.split(".")
            if part == "attn_q":
                data = unpermute(data, config.num_attention_heads)
            elif part == "attn_k":
                data = unpermute(data, config.num_key_value_heads)
            name = f"model.layers.{layer}.{names[part]}.weight"
        state[name] = torch.from_numpy(np.ascontiguousarray(data))
    state["lm_head.weight"] = state["model.embed_tokens.weight"]
    return state


def build_tokenizer(reader):
    """tokenizer.ggml.pre = "smollm": single digits, then the GPT-2 pattern over bytes."""
    tokens = metadata(reader, "tokenizer.ggml.tokens")
    merges = [tuple(merge.split(" ")) for merge in metadata(reader, "tokenizer.ggml.merges")]
    special = [i for i, kind in enumerate(metadata(reader, "tokenizer.ggml.token_type")) if kind == 3]
    tokenizer = Tokenizer(models.BPE(vocab={token: i for i, token in enumerate(tokens)}, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)])
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(tokens[i], special=True, normalized=False) for i in special])
    return tokenizer


def save_hf(model, tokenizer, reader, folder):
    """The same model as Hugging Face folders: folder (bfloat16) and folder/f32."""
    tokens = metadata(reader, "tokenizer.ggml.tokens")
    name_of = lambda key: tokens[metadata(reader, f"tokenizer.ggml.{key}_token_id")]
    for path, dtype in ((folder / "f32", torch.float32), (folder, torch.bfloat16)):
        path.mkdir(parents=True, exist_ok=True)
        model.to(dtype).save_pretrained(path)
        tokenizer.save(str(path / "tokenizer.json"))
        (path / "tokenizer_config.json").write_text(json.dumps({
            "tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False,
            "bos_token": name_of("bos"), "eos_token": name_of("eos"), "pad_token": name_of("padding"),
            "unk_token": name_of("unknown"), "model_max_length": model.config.max_position_embeddings,
            "chat_template": metadata(reader, "tokenizer.chat_template"),
        }, indent=2))


@torch.inference_mode()
def golden(model, prompt):
    out = model(torch.tensor([prompt]), use_cache=True)
    logits, cache = out.logits[0].float(), out.past_key_values
    probe = torch.arange(PROBE_EVERY - 1, len(prompt), PROBE_EVERY)
    best = logits[probe].max(-1)
    tensors = {
        "prompt": torch.tensor(prompt, dtype=torch.int32),
        "last_logits": logits[-1].clone(),
        "probe_pos": probe.int(),
        "probe_argmax": best.indices.int(),
        "probe_logit": best.values,
        "probe_lse": torch.logsumexp(logits[probe].double(), -1).float(),
    }
    step, chosen, top, margin = logits[-1], [], [], []
    for _ in range(DECODE_TOKENS):
        values, ids = step.topk(2)
        chosen.append(int(ids[0])), top.append(float(values[0])), margin.append(float(values[0] - values[1]))
        out = model(ids[:1].view(1, 1), past_key_values=cache, use_cache=True)
        step, cache = out.logits[0, -1], out.past_key_values
    tensors["decode_tokens"] = torch.tensor(chosen, dtype=torch.int32)
    tensors["decode_max"] = torch.tensor(top)
    tensors["decode_margin"] = torch.tensor(margin)
    return tensors


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gguf", required=True, type=Path)
    parser.add_argument("--text", default="/usr/share/common-licenses/GPL-3", type=Path)
    parser.add_argument("-o", "--out", default=ROOT / "tests/golden/models/smollm2.safetensors", type=Path)
    parser.add_argument("--hf-out", type=Path, help="also save the dequantised model as Hugging Face folders")
    parser.add_argument("--hf-only", action="store_true", help="only save those folders")
    args = parser.parse_args()

    reader = gguf.GGUFReader(args.gguf)
    config = build_config(reader)
    config._attn_implementation = "eager"
    model = LlamaForCausalLM(config).float().eval()
    model.load_state_dict(build_state(reader, config))
    tokenizer = build_tokenizer(reader)

    if not args.hf_only:
        prompt = tokenizer.encode(args.text.read_text()).ids[:PROMPT_TOKENS]
        tensors = golden(model, prompt)
        print("continuation:", repr(tokenizer.decode(tensors["decode_tokens"].tolist())))
        print("smallest margin:", float(tensors["decode_margin"].min()))
        args.out.parent.mkdir(parents=True, exist_ok=True)
        save_file({name: tensor.numpy() for name, tensor in tensors.items()}, args.out,
                  metadata={"text": args.text.name, "dtype": "float32", "attention": "eager"})
        args.out.chmod(0o644)
        print(args.out, args.out.stat().st_size, "bytes")
    if args.hf_out:
        save_hf(model, tokenizer, reader, args.hf_out)
        print("saved", args.hf_out)


if __name__ == "__main__":
    main()
