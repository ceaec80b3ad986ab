#!/usr/bin/env python3
"""The quality tables of docs/quality.md and docs/training.md: policies side by side on the same windows and needles.

    python3 bench/quality_claims.py --wikitext FOLDER --policies dense,auto,auto:recency -o build/claims [--device cuda]

Runs `winnow eval` on pieces of texts, several at once, and pools its samples: means with 95% bootstrap intervals, and
differences to the policy --against on the items both have. FOLDER holds wikitext2-test.txt and wikitext2-valid.txt, the
raw text of WikiText-2. --set held-out: two windows in each of some pieces of 40,000 characters (78,000 at 8,192
tokens) of the test text and of the second halves of the books in data/texts, and 200 needles: 100 in the test text, 50
in each book. --set choice: the validation text, the books' first halves, and 60 needles: what variants were chosen on.
What is in OUT is not done again; a command that asks for something else is refused there. Policies that skip blocks
should have "gate": "off".
"""

import argparse
import concurrent.futures
import json
import random
import subprocess
from pathlib import Path

BOOKS = {"kjv": Path("data/texts/kjv.txt"), "persuasion": Path("data/texts/persuasion.txt")}
HALF = 125000  # of a book, characters
NEEDLES = {"held-out": [("test", s) for s in range(31, 41)] + [(b, s) for b in BOOKS for s in range(31, 36)],
           "choice": [("valid", s) for s in range(101, 105)] + [(b, 101) for b in BOOKS]}


def pieces(text, first, last, size, most):
    text = text[first:last]
    found = [text[i * size:(i + 1) * size] for i in range(len(text) // size)]
    return found[::max(1, len(found) // most)][:most]


def write_pieces(args):
    """Files of two windows each."""
    size = 40000 if args.length <= 4096 else 78000
    wiki, first = ("test", HALF) if args.set == "held-out" else ("valid", 0)
    sources = [(wiki, args.wikitext / f"wikitext2-{wiki}.txt", 0, 1100000, 10)]
    sources += [(name, path, first, first + HALF, 3 if name == "kjv" else 2) for name, path in BOOKS.items()]
    files = []
    for name, path, begin, end, most in sources:
        for i, piece in enumerate(pieces(path.read_text(encoding="utf-8", errors="ignore"), begin, end, size, most)):
            files.append(args.output / f"{args.set}-{size}-{name}-{i}.txt")
            files[-1].write_text(piece, encoding="utf-8")
    return files


def commands(args):
    """(name, what eval is asked), windows and needles taking turns."""
    windows = [(f"windows-{file.stem}", ["--tasks", "kl,dce", "--windows", "2", "--text", str(file)])
               for file in write_pieces(args)]
    texts = {"test": args.wikitext / "wikitext2-test.txt", "valid": args.wikitext / "wikitext2-valid.txt", **BOOKS}
    needles = [(f"needles-{text}-{seed}", ["--tasks", args.needles, "--n", "10", "--seed", str(seed), "--text", str(texts[text])])
               for text, seed in NEEDLES[args.set]]
    return windows[:args.pieces] + needles[:args.needle_sets]


def check_output(args):
    """Results are found again by their texts and length alone: all else has to be as it was."""
    said = args.output / "command.json"
    asked = {"winnow": args.winnow, "model": args.model, "wikitext": str(args.wikitext.resolve()), "device": args.device,
             "policies": args.policies, "needles": args.needles}
    if not said.exists():
        if any(args.output.glob("*-*.json")):
            raise SystemExit(f"{args.output}: holds results, but not what was asked for ({said.name}); name another folder")
        said.write_text(json.dumps(asked, indent=1) + "\n", encoding="utf-8")
    before = json.loads(said.read_text(encoding="utf-8"))
    others = [f"--{key} was {before.get(key)}, is {asked[key]}" for key in asked if before.get(key) != asked[key]]
    if others:
        raise SystemExit(f"{args.output}: holds results of another command ({'; '.join(others)}); name another folder")


def run(args, name, asked):
    out = args.output / f"{name}-{args.length}.json"
    if not out.exists():
        subprocess.run([args.winnow, "eval", "-m", args.model, "--device", args.device, "--threads", str(args.threads),
                        "--lengths", str(args.length), "--policies", args.policies, *asked, "-o", str(out)],
                       check=True, capture_output=True)
    return [(name, sample) for sample in json.loads(out.read_text())["samples"]]


def interval(values):
    if not values:
        return f"{'-':>24}"
    random.seed(1)
    means = sorted(sum(random.choices(values, k=len(values))) / len(values) for _ in range(2000))
    return f"{sum(values) / len(values):8.4f} ({means[50]:6.3f} {means[1949]:6.3f})"


def table(args, samples):
    of = {}  # (policy, measure) -> {item: value}
    for name, sample in samples:
        values, item = sample["values"], (name, sample["item"])
        if "ce" in values:
            of.setdefault((sample["policy"], "dce"), {})[item] = values["ce"] - values["ce_dense"]
            of.setdefault((sample["policy"], "kl"), {})[item] = values["kl"]
        else:
            of.setdefault((sample["policy"], sample["task"]), {})[item] = values["score"]
    against = args.against or args.policies.split(",")[0]
    for measure in sorted({m for _, m in of}):
        print(f"\n{measure:24} {'items':>5} {'mean':>8} {'(95%)':>16} {'minus ' + against[-17:]:>25}")
        for policy in args.policies.split(","):
            mine, other = of.get((policy, measure), {}), of.get((against, measure), {})
            print(f"{policy[-24:]:24} {len(mine):5} {interval(list(mine.values()))} "
                  f"{interval([mine[i] - other[i] for i in mine if i in other])}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--winnow", default="build/release/bin/winnow")
    parser.add_argument("-m", "--model", default="smollm2-135m")
    parser.add_argument("--wikitext", type=Path, required=True)
    parser.add_argument("--policies", required=True)
    parser.add_argument("--against")
    parser.add_argument("--length", type=int, default=4096)
    parser.add_argument("--set", choices=NEEDLES, default="held-out")
    parser.add_argument("--needles", default="niah", help="niah, niah_paraphrase, second_question")
    parser.add_argument("--needle-sets", type=int, help="so many tens of needles only")
    parser.add_argument("--pieces", type=int, help="so many pieces of text only")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("-o", "--output", type=Path, required=True)
    args = parser.parse_args()
    args.output.mkdir(parents=True, exist_ok=True)
    check_output(args)
    with concurrent.futures.ThreadPoolExecutor(args.processes) as pool:
        asked = commands(args)
        samples = [s for found in pool.map(lambda c: run(args, *c), asked) for s in found]
    table(args, samples)


if __name__ == "__main__":
    main()
