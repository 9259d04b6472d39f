"""Training rows: an example's ids, the trained spans, and the proof of both."""

from .chat import build
from .proof import prove, response_text
from .row import IGNORED, Codec, MaskError, Row

__all__ = ["IGNORED", "Codec", "MaskError", "Row", "build", "prove", "response_text"]
