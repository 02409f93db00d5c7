"""What every test may ask for."""

from __future__ import annotations

import signal

pytest_plugins = ["tests.support.services"]

# A runner in the background has SIGINT ignored by its shell. Children would inherit that, and Ctrl-C could not be tested.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
