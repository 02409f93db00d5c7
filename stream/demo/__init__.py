"""The demo: everything started on one machine, the sample events sent, the sums read back from the topics."""

from __future__ import annotations
