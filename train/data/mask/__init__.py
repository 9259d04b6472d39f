"""Training rows: an example's ids, the trained spans, and the proof of both."""

from .chat import build, build_some
from .proof import prove, prove_some, response_text
from .row import IGNORED, Codec, Faults, MaskError, Row

__all__ = [
    "IGNORED", "Codec", "Faults", "MaskError", "Row", "build", "build_some", "prove", "prove_some", "response_text",
]  # fmt: skip
