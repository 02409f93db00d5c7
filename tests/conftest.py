"""What every test may ask for."""

from __future__ import annotations

import signal

from hypothesis import settings

pytest_plugins = ["tests.support.services"]

# A runner in the background has SIGINT ignored by its shell. Children would inherit that, and Ctrl-C could not be tested.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# Two cores shared with brokers and servers: how long an example takes says nothing about it.
settings.register_profile("shared machine", deadline=None)
settings.load_profile("shared machine")
