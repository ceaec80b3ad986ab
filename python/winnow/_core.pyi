# Compiled from python/core.cc; engine.py has the types.
from typing import Any

version: str

def __getattr__(name: str) -> Any: ...
