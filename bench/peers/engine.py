"""One peer in a process of its own, driven over pipes by run.py.

    python engine.py '{"kind": "openvino", "mode": "dense", "models": ".../models", "threads": 2}'

Loads once, then answers one JSON line per line of stdin: {"ids": [...]} -> {"seconds", "token"}, {"ids": [...],
"new_tokens": N} -> the same and {"decode_seconds"}, {"peak": true} -> {"peak_bytes"}. `seconds`: token ids in memory to
the first new token, nothing reused from earlier prompts. `decode_seconds`: the N - 1 greedy tokens after that one.
"""

import json
import os
import re
import sys
import time


def generate_with(engine, inputs, new_tokens, step):
    """First token, seconds to it, and seconds of the greedy tokens after it."""
    start = time.perf_counter()
    first = token = engine.prefill(inputs)
    middle = time.perf_counter()
    for _ in range(new_tokens - 1):
        token = step(token)
    return first, middle - start, time.perf_counter() - middle


class OpenVino:
    """OpenVINO GenAI, paged attention in bf16, the whole prompt as one chunk (its sparse modes need that to gain)."""

    def __init__(self, spec):
        import numpy
        import openvino
        import openvino_genai as genai
        self.numpy, self.openvino, self.genai = numpy, openvino, genai
        scheduler = genai.SchedulerConfig()
        scheduler.max_num_batched_tokens = 16384
        scheduler.enable_prefix_caching = False
        if spec["mode"] != "dense":
            scheduler.use_sparse_attention = True
            config = genai.SparseAttentionConfig(mode=getattr(genai.SparseAttentionMode, spec["mode"].upper()))
            for name, value in spec.get("sparse", {}).items():
                setattr(config, name, value)
            scheduler.sparse_attention_config = config
        self.pipeline = genai.LLMPipeline(
            os.path.join(spec["models"], spec.get("weights", "f16") + ".gguf"), "CPU", scheduler_config=scheduler,
            INFERENCE_PRECISION_HINT="bf16", INFERENCE_NUM_THREADS=spec["threads"], **spec.get("properties", {}))
        self.config = genai.GenerationConfig()
        self.config.max_new_tokens = 1
        self.config.do_sample = False
        self.config.ignore_eos = True
        self.version = genai.__version__

    def prepare(self, ids):
        array = self.numpy.array([ids], dtype=self.numpy.int64)
        tensor = self.openvino.Tensor
        return self.genai.TokenizedInputs(tensor(array), tensor(self.numpy.ones_like(array)))

    def prefill(self, inputs):
        self.config.max_new_tokens = 1
        return self.pipeline.generate(inputs, self.config).tokens[0][0]

    def generate(self, inputs, new_tokens):
        self.config.max_new_tokens = new_tokens
        start = time.perf_counter()
        result = self.pipeline.generate(inputs, self.config)
        seconds = time.perf_counter() - start
        decode = result.perf_metrics.get_tpot().mean / 1000 * (new_tokens - 1)  # its own clock
        return result.tokens[0][0], seconds - decode, decode


class LlamaCpp:
    def __init__(self, spec):
        import llama_cpp
        self.llama = llama_cpp.Llama(
            os.path.join(spec["models"], spec["weights"] + ".gguf"), n_ctx=8192, n_batch=spec["ubatch"],
            n_ubatch=spec["ubatch"], n_threads=spec["threads"], n_threads_batch=spec["threads"],
            flash_attn=spec["flash"], verbose=False)
        self.version = f"llama-cpp-python {llama_cpp.__version__}"
        self.logits = lambda: llama_cpp.llama_get_logits_ith(self.llama.ctx, -1)

    def prepare(self, ids):
        self.llama.reset()
        return ids

    def prefill(self, ids):
        import numpy
        self.llama.eval(ids)
        return int(numpy.ctypeslib.as_array(self.logits(), (self.llama.n_vocab(),)).argmax())

    def generate(self, ids, new_tokens):
        return generate_with(self, ids, new_tokens, lambda token: self.prefill([token]))


class Transformers:
    def __init__(self, spec):
        import torch
        import transformers
        torch.set_num_threads(spec["threads"])
        torch.set_grad_enabled(False)
        self.torch = torch
        self.model = transformers.AutoModelForCausalLM.from_pretrained(
            os.path.join(spec["models"], "hf"), dtype=torch.bfloat16, attn_implementation="sdpa").eval()
        self.version = f"transformers {transformers.__version__}, torch {torch.__version__}"

    def prepare(self, ids):
        return self.torch.tensor([ids])

    def prefill(self, inputs):
        self.cache = None
        return self.forward(inputs)

    def forward(self, inputs):
        output = self.model(inputs, use_cache=True, past_key_values=self.cache, logits_to_keep=1)
        self.cache = output.past_key_values
        return int(output.logits[0, -1].argmax())

    def generate(self, inputs, new_tokens):
        return generate_with(self, inputs, new_tokens, lambda token: self.forward(self.torch.tensor([[token]])))


class GemmPeak:
    """Not a peer: the machine's matrix multiply, through torch's oneDNN. {"probe": true} -> GFLOP/s."""

    def __init__(self, spec):
        import torch
        torch.set_num_threads(spec["threads"])
        self.torch, self.version = torch, f"torch {torch.__version__}"

    def probe(self, repeats=5):
        result = {}
        for name, size in (("bfloat16", 4096), ("float32", 2048)):
            a, b = (self.torch.randn(size, size).to(getattr(self.torch, name)) for _ in range(2))
            times = []
            for _ in range(repeats + 1):
                start = time.perf_counter()
                a @ b
                times.append(time.perf_counter() - start)
            result[name] = {"size": size, "gflops": sorted(2 * size**3 / t / 1e9 for t in times[1:])}
        return result


def peak_bytes():
    with open("/proc/self/status") as status:
        return int(re.search(r"VmHWM:\s+(\d+) kB", status.read()).group(1)) * 1024


def main():
    answers = os.fdopen(os.dup(1), "w")  # libraries print to stdout: keep them off the pipe
    os.dup2(2, 1)
    spec = json.loads(sys.argv[1])
    kinds = {"openvino": OpenVino, "llama.cpp": LlamaCpp, "transformers": Transformers, "gemm": GemmPeak}
    engine = kinds[spec["kind"]](spec)

    def answer(**fields):
        print(json.dumps(fields), file=answers, flush=True)

    answer(version=engine.version)
    for line in sys.stdin:
        request = json.loads(line)
        if "ids" in request:
            inputs = engine.prepare(request["ids"])
            if request.get("new_tokens", 1) > 1:
                token, seconds, decode_seconds = engine.generate(inputs, request["new_tokens"])
                answer(seconds=seconds, token=int(token), decode_seconds=decode_seconds)
                continue
            start = time.perf_counter()
            token = engine.prefill(inputs)
            answer(seconds=time.perf_counter() - start, token=int(token))
        elif "peak" in request:
            answer(peak_bytes=peak_bytes())
        elif "probe" in request:
            answer(gflops=engine.probe())


if __name__ == "__main__":
    main()
