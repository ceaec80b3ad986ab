"""winnow: long prompts made cheap by not computing what does not matter, with what that costs measured.

engine = winnow.Engine("model.gguf")
session = engine.session()
session.prefill(engine.tokenize(text), "keep08")
print(session.generate(50).text)
print(engine.evaluate(text, ["keep08", "auto"]).results)
"""

from ._library import Error, library
from .engine import Answer, Engine, Evaluation, Model, Policy, Quality, Session, Stage, Stats

__version__: str = library.winnow_version().decode()
__all__ = ["Answer", "Engine", "Error", "Evaluation", "Model", "Policy", "Quality", "Session", "Stage", "Stats"]
