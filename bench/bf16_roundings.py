#!/usr/bin/env python3
"""What rounding to bf16 does to the tokens that keep08 keeps: a GGUF model of Llama's family in float32 (PyTorch), where the
values are rounded at every place at which a bf16 program rounds, at one place alone, at all but one, and at every place to
more bits (bf16 has 8 significant ones, fp16 11). Two controls: nothing is rounded, but at one stage the last token that stays is
exchanged for the first that goes; and everything is rounded, but the tokens are those of float32.

  bench/bf16_roundings.py MODEL.gguf TEXT [--prompts 10] [--characters 8600] [--threads 2] [--only WORD]

The prompts are those of rows_in_common.py; in float32 the rows kept are those of `winnow run --precision f32`. Prints for each case,
beside the same in float32: the share of all caches' rows in common (mean over the prompts, smallest, largest), the KL of the last
logits (mean, largest), the KL of the last logits to those of dense float32 (mean), and the share of the tokens that each stage keeps.
Needs torch, gguf and llama-cpp-python.
"""
import argparse
from statistics import mean

import gguf
import llama_cpp
import torch
from torch.nn.functional import max_pool1d, rms_norm, silu

# In the order of a layer. The residual stream, sums and the softmax of scores are float32 in a bf16 program, too.
PLACES = ("weights", "norms", "qkv product", "q", "k", "v", "scored q and k", "probabilities", "attended", "gate and up", "activated",
          "last norm and head")
BF16_BITS = 8
STAGES, KEEP = range(4, 28, 3), 0.8  # keep08 of 30 layers
WINDOW, POOL, HEAD, TAIL_MIN, TAIL_SHARE = 64, 7, 4, 16, 0.1


def rounded(x, bits):
    """To the nearest number of so many significant bits, ties to even."""
    low = 24 - bits
    whole = x.contiguous().view(torch.int32)
    half = (1 << (low - 1)) - 1 + ((whole >> low) & 1)
    return ((whole + half) & -(1 << low)).view(torch.float32)


class Model:
    def __init__(self, path):
        reader = gguf.GGUFReader(path)

        def number(key):
            return reader.fields["llama." + key].contents()

        self.layers, self.heads, self.kv_heads = number("block_count"), number("attention.head_count"), number("attention.head_count_kv")
        self.epsilon, self.theta = number("attention.layer_norm_rms_epsilon"), number("rope.freq_base")
        self.weights = {t.name: torch.tensor(gguf.quants.dequantize(t.data, t.tensor_type)) for t in reader.tensors}

    def rounded_weights(self, bits):
        """The layers' matrices: winnow's embeddings are exact, and the head is a place of its own."""
        return {name: rounded(w, bits) if name.startswith("blk.") and w.dim() == 2 else w for name, w in self.weights.items()}

    def rotate(self, x, positions):
        """x [tokens, heads, head_dim]; a GGUF file's pairs are neighbours."""
        dim = x.shape[-1]
        angles = positions[:, None, None] * self.theta ** (-torch.arange(0, dim, 2, dtype=torch.float64) / dim)
        cos, sin = angles.cos().float(), angles.sin().float()
        a, b = x[..., 0::2], x[..., 1::2]
        return torch.stack((a * cos - b * sin, b * cos + a * sin), -1).flatten(-2)

    def logits(self, q, k, rows):
        """q [heads, queries, dim], k [kv heads, cached, dim] -> [heads, queries, cached]; query i sees cache rows up to rows[i]."""
        s = q @ k.repeat_interleave(self.heads // self.kv_heads, 0).transpose(1, 2) * k.shape[-1] ** -0.5
        return s.masked_fill_(torch.arange(k.shape[1]) > rows[:, None], -torch.inf)

    def attention(self, q, k, v, rows, at):
        v, out = v.repeat_interleave(self.heads // self.kv_heads, 0), []
        for begin in range(0, len(rows), 512):
            mine = rows[begin:begin + 512]
            end = int(mine[-1]) + 1
            s = self.logits(q[:, begin:begin + 512], k[:, :end], mine)
            p = torch.exp(s - s.amax(-1, keepdim=True))
            out.append(at("probabilities", p) @ v[:, :end] / p.sum(-1, keepdim=True))
        return torch.cat(out, 1)

    def choose(self, q, k, exchange):
        """The rows that stay, by the attention of the last queries, as scorer.cc and token_pruner.cc have it."""
        count, window = q.shape[1], min(WINDOW, q.shape[1])
        scores = self.logits(q[:, -window:], k, torch.arange(count - window, count)).softmax(-1).mean(1).amax(0)
        scores = max_pool1d(scores[None], POOL, 1, POOL // 2)[0]
        tail = max(TAIL_MIN, int(TAIL_SHARE * count))
        scores[:HEAD] = scores[count - tail:] = torch.inf
        order = count - 1 - torch.sort(scores.flip(0), descending=True, stable=True).indices  # of equal ones the later first
        kept = max(HEAD + tail, int(count * KEEP + 1e-9))
        if exchange:
            order[kept - 1] = order[kept]
        return order[:kept].sort().values

    def prefill(self, tokens, places=(), bits=BF16_BITS, prune=True, exchange_at=None, chosen=None):
        """(positions in each layer's cache, last logits). exchange_at: a stage's layer; chosen: positions by layer, instead of choosing."""
        weights = self.rounded_weights(bits) if "weights" in places else self.weights

        def at(place, x):
            return rounded(x, bits) if place in places else x

        embeddings = self.weights["token_embd.weight"]
        alive, x, cached = torch.arange(len(tokens)), embeddings[tokens], []
        for layer in range(self.layers):
            def w(name):
                return weights[f"blk.{layer}.{name}.weight"]

            def heads(name):
                return at("qkv product", normed @ w(name).T).unflatten(-1, (-1, x.shape[-1] // self.heads))

            normed = at("norms", rms_norm(x, x.shape[-1:], w("attn_norm"), self.epsilon))
            q, k = (self.rotate(heads(name), alive).transpose(0, 1) for name in ("attn_q", "attn_k"))
            v = at("v", heads("attn_v").transpose(0, 1))
            cached.append(set(alive.tolist()))
            rows = torch.arange(len(alive))
            if prune and layer + 1 in STAGES:
                if chosen is None:
                    rows = self.choose(at("scored q and k", q), at("scored q and k", k), exchange_at == layer + 1)
                else:
                    rows = torch.tensor([i for i, position in enumerate(alive.tolist()) if position in chosen[layer + 1]])
            if layer == self.layers - 1:
                rows = rows[-1:]
            alive, x, q = alive[rows], x[rows], q[:, rows]
            attended = self.attention(at("q", q), at("k", k), v, rows, at)
            x = x + at("attended", attended.transpose(0, 1).flatten(1)) @ w("attn_output").T
            normed = at("norms", rms_norm(x, x.shape[-1:], w("ffn_norm"), self.epsilon))
            gate, up = (at("gate and up", normed @ w(name).T) for name in ("ffn_gate", "ffn_up"))
            x = x + at("activated", silu(gate) * up) @ w("ffn_down").T
        normed = at("last norm and head", rms_norm(x, x.shape[-1:], self.weights["output_norm.weight"], self.epsilon))
        return cached, (normed @ at("last norm and head", embeddings).T)[0]


def cases(exact):
    """name -> what prefill() is told; `exact`: the positions that float32 kept."""
    everywhere = set(PLACES)
    yield "nothing", {}
    yield "every place", {"places": everywhere}
    yield "every place, dense", {"places": everywhere, "prune": False}
    yield "every place, tokens as in float32", {"places": everywhere, "chosen": exact}
    for bits in (9, 10, 11, 12, 14):
        yield f"every place, {bits} bits", {"places": everywhere, "bits": bits}
    for stage in (STAGES[0], STAGES[3], STAGES[-1]):
        yield f"nothing, one token exchanged at layer {stage}", {"exchange_at": stage}
    for place in PLACES:
        yield f"only {place}", {"places": {place}}
    for place in PLACES:
        yield f"all but {place}", {"places": everywhere - {place}}


def in_common(a, b):
    return sum(len(x & y) for x, y in zip(a, b)) / sum(len(x) for x in a)


def kl(p, q):
    p, q = p.double().log_softmax(-1), q.double().log_softmax(-1)
    return float((p.exp() * (p - q)).sum())


def pieces(path, text, count, characters):
    vocabulary = llama_cpp.Llama(path, n_ctx=512, vocab_only=True, verbose=False)
    with open(text, encoding="utf-8") as file:
        text = file.read()
    for i in range(count):
        yield vocabulary.tokenize(text[i * characters:(i + 1) * characters].encode(), add_bos=False, special=False)


@torch.inference_mode()
def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("text")
    parser.add_argument("--prompts", type=int, default=10)
    parser.add_argument("--characters", type=int, default=8600)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--only", default="", help="only the cases whose name holds this")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    model, results = Model(arguments.model), {}
    for tokens in pieces(arguments.model, arguments.text, arguments.prompts, arguments.characters):
        exact = {prune: model.prefill(tokens, prune=prune) for prune in (True, False)}
        dense_logits = exact[False][1]
        for name, told in cases(exact[True][0]):
            if arguments.only in name:
                (rows, logits), (exact_rows, exact_logits) = model.prefill(tokens, **told), exact[told.get("prune", True)]
                by_stage = [in_common([exact_rows[layer]], [rows[layer]]) for layer in STAGES]
                measured = in_common(exact_rows, rows), kl(exact_logits, logits), kl(dense_logits, logits), by_stage
                results.setdefault(name, []).append(measured)
    for name, measured in results.items():
        shares, divergences, from_dense, by_stage = zip(*measured)
        print(f"{name:42} {mean(shares):.4f} ({min(shares):.4f} to {max(shares):.4f})  KL {mean(divergences):.5f} ({max(divergences):.5f})  "
              f"to dense {mean(from_dense):.4f}  by stage {' '.join(f'{mean(stage):.3f}' for stage in zip(*by_stage))}", flush=True)


if __name__ == "__main__":
    main()
