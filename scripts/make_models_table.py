#!/usr/bin/env python3
"""The table of families in docs/models.md, made from the sources and the tests.

    scripts/make_models_table.py            writes it
    scripts/make_models_table.py --check    fails if it is not current (./test calls this)

What the table says is looked up: families in src/model/architecture.cc, GGUF architectures in src/formats/gguf_source.cc,
golden models in tests/golden/models and tests/model/golden_test.cc, tokenizers and chat templates in
tests/golden/tokenizer and tests/tokenizer. A family without a row here, a row without a family, and a test that does not
exist are errors.
"""

import argparse
import json
import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
DOCUMENT = ROOT / "docs/models.md"
MODELS, TOKENIZERS = ROOT / "tests/golden/models", ROOT / "tests/golden/tokenizer"
BEGIN, END = "<!-- made by scripts/make_models_table.py -->", "<!-- end of the table -->"

# Title: (model_type, GGUF architecture that stands for it, golden models, tokenizers, chat templates, notes). A tokenizer
# is a file of tests/golden/tokenizer, or the section NAME of gguf-pre.json as "pre NAME".
ROWS = {
    "Llama 2, 3 to 3.3, SmolLM2": ("llama", "llama", ["tiny-llama", "tiny-llama3", "tiny-dynamic", "smollm2"],
                                   ["sp-llama", "sp-variants", "pre llama-bpe", "smollm2"],
                                   ["llama 2", "llama 3", "llama 3, always asking", "llama 3.1", "llama 3.2", "smollm2"],
                                   "biases are read where they exist"),
    "Mistral": ("mistral", "llama", ["tiny-mistral"], ["sp-llama", "pre tekken"],
                ["mistral 7b v0.1", "mistral 7b v0.2", "mistral v1", "mistral v3", "mistral nemo", "mistral v7"],
                "sliding window. A GGUF file without the window's key has none"),
    "Qwen2, Qwen2.5": ("qwen2", "qwen2", ["tiny-qwen2"], ["pre qwen2"], ["qwen2", "qwen2.5"],
                       "`use_sliding_window` in folders; GGUF files have no windows"),
    "Qwen3 (dense)": ("qwen3", "qwen3", ["tiny-qwen3"], ["qwen3", "pre qwen2"], ["qwen3", "qwen3 later"],
                      "every head of q and k is normed before it is rotated"),
    "StableLM 2": ("stablelm", "stablelm", ["tiny-stablelm"], ["pre gpt-2"], [],
                   "LayerNorm, part of each head rotated; not with `use_parallel_residual` or `qk_layernorm`"),
    "Gemma 3, text": ("gemma3_text", "gemma3", ["tiny-gemma3"], ["sp-gemma", "gemma3"], ["gemma", "gemma 3"],
                      "sliding and global layers, each with a rotary base. The multimodal `gemma3` folders are refused"),
    "GPT-2": ("gpt2", "gpt2", ["tiny-gpt2"], ["gpt2", "pre gpt-2"], [], "learned positions"),
}


def fail(message):
    sys.exit(f"make_models_table: {message}")


def check_all(kind, rows, known):
    for name in sorted(set(rows) ^ set(known)):
        fail(f"{kind} {name} is {'only here' if name in rows else 'missing here'}")


def check_families():
    families = re.search(r"families\(\) \{.*?\n\}\n", (ROOT / "src/model/architecture.cc").read_text(), re.S).group()
    check_all("model_type", [row[0] for row in ROWS.values()], re.findall(r'\{"(\w+)",\s*\{\w+_names\(\)', families))
    source = (ROOT / "src/formats/gguf_source.cc").read_text()
    listed = re.search(r"kArchitectures\[\] = \{.*?\n\};\n", source, re.S).group()
    names = re.findall(r"^    \{(\w+|\"\w+\"), \"", listed, re.M)
    constants = dict(re.findall(r'constexpr \S+ (k\w+) = "(\w+)";', source))
    check_all("GGUF architecture", [row[1] for row in ROWS.values()],
              [name.strip('"') if name.startswith('"') else constants[name] for name in names])


def golden_sources(model):
    """How a golden model is read by the tests."""
    tests = (ROOT / "tests/model/golden_test.cc").read_text() + (ROOT / "tests/model/smollm2_test.cc").read_text()
    if f"{model}.safetensors" not in tests and f'"{model}"' not in tests:
        fail(f"no test reads {model}")
    if (MODELS / f"{model}.safetensors").exists():
        return "the demo model"
    kinds = [kind for kind, path in (("folder", MODELS / model / "config.json"), ("GGUF", MODELS / f"{model}.gguf"))
             if path.exists()]
    return ", ".join(kinds) or fail(f"no golden model {model}")


def check_tokenizer(name):
    tests = "".join(path.read_text() for path in (ROOT / "tests/tokenizer").glob("*_test.cc"))
    if name.startswith("pre "):
        if name[4:] not in json.loads((TOKENIZERS / "gguf-pre.json").read_text()):
            fail(f"gguf-pre.json has no {name[4:]}")
    elif not (TOKENIZERS / f"{name}.json").exists():
        fail(f"no golden file {name}.json")
    elif f'"{name}.json"' not in tests and f'"{name.removeprefix("sp-")}"' not in tests:
        fail(f"no test reads {name}.json")
    return f"`{name[4:]}` in GGUF" if name.startswith("pre ") else f"`{name}`"


def make_table():
    check_families()
    known = json.loads((TOKENIZERS / "chat.json").read_text())["templates"]
    lines = ["| family | source: `model_type` / GGUF | golden model | tokenizer test | chat templates | notes |",
             "|---|---|---|---|---|---|"]
    for title, (model_type, gguf, models, tokenizers, templates, notes) in ROWS.items():
        for template in templates:
            if template not in known:
                fail(f"chat.json has no template {template}")
        golden = ", ".join(f"`{model}` ({golden_sources(model)})" for model in models)
        lines.append(f"| {title} | `{model_type}` / `{gguf}` | {golden} | {', '.join(map(check_tokenizer, tokenizers))} | "
                     f"{', '.join(templates) or 'none'} | {notes} |")
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing")
    args = parser.parse_args()
    text = DOCUMENT.read_text()
    if text.count(BEGIN) != 1 or text.count(END) != 1:
        fail(f"{DOCUMENT.name} needs the lines {BEGIN} and {END}")
    before, rest = text.split(BEGIN)
    current = f"{before}{BEGIN}\n\n{make_table()}\n\n{END}{rest.split(END)[1]}"
    if not args.check:
        DOCUMENT.write_text(current)
    elif current != text:
        fail(f"the table in {DOCUMENT.name} is not current: run scripts/make_models_table.py")


if __name__ == "__main__":
    main()
