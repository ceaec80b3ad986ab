# %% [markdown]
# # What does leaving tokens out cost?
#
# winnow reads a long prompt faster by not computing what matters little, and measures what that changes. This
# script compares policies on a text of yours. It is a notebook in the percent format: editors with Jupyter run its
# cells, `jupytext --to ipynb` converts it, and Python runs it as it is:
#
#     python examples/policy_evaluation.py MODEL [--text FILE] [--policies keep09 keep08 ...]

# %%
import argparse
import sys
from pathlib import Path

import numpy as np

import winnow

arguments = argparse.ArgumentParser(description="Compares policies on a text.")
arguments.add_argument("model", help="GGUF file or Hugging Face folder")
arguments.add_argument("--text", default=str(Path(__file__).parent.parent / "data" / "texts" / "persuasion.txt"))
arguments.add_argument("--policies", nargs="+", default=["keep09", "keep08", "keep07", "auto", "pooled=0.9"])
arguments.add_argument("--length", type=int, default=2048, help="tokens of a window")
arguments.add_argument("--windows", type=int, default=6)
arguments.add_argument("--plot", help="picture to write (needs matplotlib)")
options = arguments.parse_args()

engine = winnow.Engine(options.model)
text = Path(options.text).read_text()
print(f"{engine.model.name}: {engine.model.layers} layers, context {engine.model.context}")

# %% [markdown]
# ## Every policy beside dense
#
# Each window of the text is read under each policy; then the model predicts the 256 tokens that follow. *KL* is how far its
# predictions are from those of the dense model, *dCE* how much worse they are, both in nats; *computed* is the share of
# tokens the layers saw, *density* the share of attention among them.

# %%
found = engine.evaluate(
    text,
    options.policies,
    length=options.length,
    windows=options.windows,
    progress=lambda share: print(f"\rmeasured {share:4.0%}", end="", file=sys.stderr),
)
print(file=sys.stderr)
print(f"{'policy':<14} {'KL':>16} {'dCE':>8} {'same top':>8} {'computed':>8} {'density':>8} {'KV':>6} {'speedup':>8}")
for quality in found.results:
    half = (quality.kl_interval[1] - quality.kl_interval[0]) / 2
    print(
        f"{quality.policy:<14} {quality.kl:8.4f} +-{half:5.4f} {quality.dce:8.4f} {quality.top1:8.3f} "
        f"{quality.avgtok:8.2f} {quality.density:8.2f} {quality.kv_share:6.2f} {quality.speedup:7.2f}x"
    )

# %% [markdown]
# ## Which tokens stay

# %%
tokens = engine.tokenize(text[: 8 * options.length])[: options.length // 2]
session = engine.session()
for policy in options.policies:
    try:
        session = engine.session()
        session.prefill(tokens, policy)
    except winnow.Error as error:
        print(f"{policy}: {error}")
        continue
    if not session.stages:
        print(f"{policy}: all tokens stay")
        continue
    kept = session.stages[-1].kept
    share = np.histogram(kept, bins=8, range=(0, tokens.size))[0] / (tokens.size / 8)
    print(f"{policy}: {kept.size} of {tokens.size}; by eighths of the prompt: {np.round(share, 2)}")

# %% [markdown]
# ## Speed against quality

# %%
if options.plot:
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(6, 4))
    for quality in found.results:
        low, high = quality.kl_interval
        axes.errorbar(quality.speedup, quality.kl, [[quality.kl - low], [high - quality.kl]], fmt="o", capsize=3)
        axes.annotate(quality.policy, (quality.speedup, quality.kl), xytext=(5, 5), textcoords="offset points")
    axes.set_xlabel("times faster than dense to the first token")
    axes.set_ylabel("KL(dense || policy), nats")
    figure.savefig(options.plot, bbox_inches="tight")
    print(f"wrote {options.plot}")
