"""winnow: long prompts made cheap by not computing what does not matter, with what that costs measured.

engine = winnow.Engine("model.gguf")
session = engine.session()
session.prefill(engine.tokenize(text), "keep08")
print(session.generate(50).text)
print(engine.evaluate(text, ["keep08", "auto"]).results)
"""

from ._core import version as __version__
from ._error import Error
from .engine import Answer, Engine, Evaluation, Model, Policy, Quality, Session, Stage, Stats

__all__ = ["Answer", "Engine", "Error", "Evaluation", "Model", "Policy", "Quality", "Session", "Stage", "Stats"]
__all__ += ["__version__"]
