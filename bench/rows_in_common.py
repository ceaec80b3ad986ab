#!/usr/bin/env python3
"""How far implementations agree on what a policy keeps: the share of all caches' rows that hold a token which the other
one's cache of that layer holds too.

  bench/rows_in_common.py MODEL TEXT [--prompts 5] [--characters 8600] [--policy keep08] [--winnow PROGRAM] NAME=FLAGS...

FLAGS are those of `winnow run`, VARIABLE=value may stand before them. Every implementation reads the same prompts,
pieces of TEXT of that many characters (some 2,000 tokens). Prints for each pair the mean over the prompts, the smallest and
the largest.

  bench/rows_in_common.py smollm2-135m data/texts/persuasion.txt "one=--device cpu" "two=--devices cpu,cpu" \\
      "instructions=ONEDNN_MAX_CPU_ISA=AVX512_CORE --device cpu" "float32=--precision f32"
"""
import argparse
import itertools
import json
import os
import shlex
import subprocess
import tempfile


def kept_by_layer(arguments, flags, prompt):
    """[layers] the positions in each cache."""
    words, environment = shlex.split(flags), dict(os.environ)
    while words and not words[0].startswith("-"):
        name, value = words.pop(0).split("=", 1)
        environment[name] = value
    command = [arguments.winnow, "run", "-m", arguments.model, "-f", prompt, "-n", "1", "--policy", arguments.policy, "--json", "--positions", *words]
    answer = json.loads(subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE).stdout)
    stages, kept, layers = {s["layer"]: set(s["kept_positions"]) for s in answer["stages"]}, set(range(answer["prompt_tokens"])), []
    for layer, rows in enumerate(answer["kv_lens"]):
        kept = stages.get(layer, kept)
        assert len(kept) == rows, "a cache has the rows its last stage kept"
        layers.append(kept)
    return layers


def in_common(a, b):
    return sum(len(x & y) for x, y in zip(a, b)) / sum(len(x) for x in a)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("text")
    parser.add_argument("implementations", nargs="+", metavar="NAME=FLAGS")
    parser.add_argument("--prompts", type=int, default=5)
    parser.add_argument("--characters", type=int, default=8600)
    parser.add_argument("--policy", default="keep08")
    parser.add_argument("--winnow", default="build/release/bin/winnow")
    arguments = parser.parse_args()
    flags = dict(one.split("=", 1) for one in arguments.implementations)
    with open(arguments.text, encoding="utf-8") as file:
        text = file.read()
    kept = {name: [] for name in flags}
    with tempfile.TemporaryDirectory() as folder:
        for i in range(arguments.prompts):
            prompt = os.path.join(folder, "prompt.txt")
            with open(prompt, "w", encoding="utf-8") as file:
                file.write(text[i * arguments.characters : (i + 1) * arguments.characters])
            for name in flags:
                kept[name].append(kept_by_layer(arguments, flags[name], prompt))
    for a, b in itertools.combinations(flags, 2):
        shares = [in_common(x, y) for x, y in zip(kept[a], kept[b])]
        print(f"{a:20} {b:20} {sum(shares) / len(shares):.4f} ({min(shares):.4f} to {max(shares):.4f})", flush=True)


if __name__ == "__main__":
    main()
