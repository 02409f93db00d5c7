"""Sample events and pictures, written for this project: see README.md beside this file."""

from __future__ import annotations
