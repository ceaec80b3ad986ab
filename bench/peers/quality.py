#!/usr/bin/env python3
"""What OpenVINO GenAI's XATTENTION costs in quality: change of cross-entropy against its own dense attention.

    python3 bench/peers/quality.py --venv build/peers-venv --text FILE --length 8192 --windows 4 -o build/quality.json

The peer gives no logits, but with `echo` it gives the log-probability of every token of the prompt. Over the second
half of each window: dce = mean(log p_dense - log p_sparse) of the tokens that came, in nats; and half the mean square of
that difference, which is what KL(dense || sparse) would be if the differences were small and the text drawn from the
model (second-order expansion): an upper-side estimate, since real text has surprises. winnow's own numbers on the same
windows: `winnow eval --tasks kl,dce`. Run with the venv's python or with any: it restarts itself with the venv's.
"""

import argparse
import json
import os
import statistics
import sys
from pathlib import Path


def log_probabilities(pipeline, genai, openvino, numpy, ids):
    config = genai.GenerationConfig()
    config.max_new_tokens, config.do_sample, config.ignore_eos = 1, False, True
    config.echo, config.logprobs = True, 1
    handle = pipeline.add_request(0, openvino.Tensor(numpy.array([ids], dtype=numpy.int64)), config)
    while pipeline.has_non_finished_requests():
        pipeline.step()
    return [float(value) for value in handle.read_all()[0].generated_log_probs][:len(ids)]


def make_pipeline(genai, args, sparse):
    scheduler = genai.SchedulerConfig()
    scheduler.max_num_batched_tokens = 16384  # the whole prompt as one chunk, as in run.py
    scheduler.enable_prefix_caching = False
    scheduler.cache_size = 2
    if sparse:
        scheduler.use_sparse_attention = True
        scheduler.sparse_attention_config = genai.SparseAttentionConfig(mode=genai.SparseAttentionMode.XATTENTION)
    return genai.ContinuousBatchingPipeline(str(args.venv / "models/f16.gguf"), scheduler, "CPU", {
        "INFERENCE_PRECISION_HINT": "bf16", "INFERENCE_NUM_THREADS": args.threads})


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--venv", type=Path, default=Path("build/peers-venv"), help="made by setup.sh")
    parser.add_argument("--text", type=Path, required=True)
    parser.add_argument("--length", type=int, default=8192)
    parser.add_argument("--windows", type=int, default=4)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("-o", "--out", type=Path)
    args = parser.parse_args()
    python = args.venv.absolute() / "bin/python"
    if Path(sys.prefix) != python.parent.parent:
        os.execv(python, [python, __file__, *sys.argv[1:]])

    import numpy
    import openvino
    import openvino_genai as genai
    from tokenizers import Tokenizer

    ids = Tokenizer.from_file(str(args.venv / "models/hf/tokenizer.json")).encode(args.text.read_text()).ids
    if len(ids) < args.length * args.windows:
        parser.error(f"{args.text}: {len(ids)} tokens, {args.length * args.windows} needed")
    windows = [ids[i * args.length:(i + 1) * args.length] for i in range(args.windows)]
    scores = {}
    for mode in ("dense", "xattention"):
        pipeline = make_pipeline(genai, args, mode != "dense")
        scores[mode] = []
        for window in windows:
            scores[mode].append(log_probabilities(pipeline, genai, openvino, numpy, window))
            print(f"{mode}: window {len(scores[mode])} of {args.windows}", file=sys.stderr)
        del pipeline

    half = args.length // 2
    differences = [[d - s for d, s in zip(dense[half:], sparse[half:])]
                   for dense, sparse in zip(scores["dense"], scores["xattention"])]
    by_window = [statistics.fmean(row) for row in differences]
    result = {
        "peer": f"OpenVINO GenAI {genai.__version__}, XATTENTION with its defaults against dense, bf16",
        "text": args.text.name, "length": args.length, "windows": args.windows, "tokens": "second half",
        "dce": statistics.fmean(by_window), "dce_by_window": by_window,
        "half_mean_square": 0.5 * statistics.fmean(x * x for row in differences for x in row),
    }
    print(json.dumps(result, indent=1))
    if args.out:
        args.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
