"""The Triton contract of every guard model: tensor names, types and shapes (`max_batch_size: 0`, not decoupled)."""

from __future__ import annotations

SYSTEM = "SYSTEM"
"""BYTES [1], UTF-8: the rendered system message."""
USER = "USER"
"""BYTES [1], UTF-8: the rendered user message."""
IMAGES = "IMAGES"
"""BYTES [-1], optional: canonical PNG or JPEG files, in order."""
MAX_TOKENS = "MAX_TOKENS"
"""INT32 [1], optional: limit of completion tokens."""

TEXT = "TEXT"
"""BYTES [1], UTF-8: the raw completion."""
FINISH_REASON = "FINISH_REASON"
"""BYTES [1]: `stop`, `length` or `cancelled`."""
SCORES = "SCORES"
"""FP32 [2]: probability of unsafe for request and response; NaN where there is none."""
USAGE = "USAGE"
"""INT32 [2]: prompt and completion tokens."""
MANIFEST = "MANIFEST"
"""BYTES [1]: digest of the weights' manifest."""

INPUTS = (SYSTEM, USER, IMAGES, MAX_TOKENS)
OUTPUTS = (TEXT, FINISH_REASON, SCORES, USAGE, MANIFEST)
