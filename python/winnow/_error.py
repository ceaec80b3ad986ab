"""What winnow says about a call that failed."""


class Error(Exception):
    """`kind` is "i/o", "bad format", "unsupported", "bad argument", "out of memory", "cancelled" or "internal"."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind
