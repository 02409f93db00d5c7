"""Keeps a row inside the output grammar: xgrammar says at each step which tokens may come."""

from __future__ import annotations

import functools
from typing import Any

import torch

from .errors import LoadError
from .grammar import ANYTHING, Allowed, answer_grammar


class Constraint:
    """One row's place in the grammar."""

    def __init__(self, matcher: Any, bitmask: torch.Tensor) -> None:
        self._matcher = matcher
        self._bitmask = bitmask

    def apply(self, logits: torch.Tensor) -> None:
        """Set the logits [vocabulary] of what may not come now to minus infinity, in place."""
        self._matcher.fill_next_token_bitmask(self._bitmask)
        allowed = _unpacked(self._bitmask[0], logits.shape[0])
        logits.masked_fill_(~allowed.to(logits.device), float("-inf"))

    def accept(self, id: int) -> None:
        """The row goes on with `id`, which must have been allowed."""
        if not self._matcher.accept_token(id):
            raise RuntimeError("the grammar does not know the token that it allowed")


KEPT = 64
"""Compiled grammars that are remembered: four for each policy in use."""


class Grammars:
    """Compiles the answer's grammars for one tokenizer, one for each kind of prompt. `constraint` may be called from several threads, and
    takes tens of milliseconds for a policy that is new to it."""

    def __init__(self, tokenizer: Any, vocabulary_size: int, end_ids: frozenset[int], *, max_think_chars: int) -> None:
        """Compile the widest grammar. Raises `LoadError` when xgrammar is not installed or cannot use the tokenizer. Takes seconds."""
        try:
            import xgrammar
        except ImportError as error:
            raise LoadError(f"constrained answers need xgrammar in this environment ({error})") from error
        self._xgrammar: Any = xgrammar
        self._vocabulary_size = vocabulary_size
        try:
            information = xgrammar.TokenizerInfo.from_huggingface(
                tokenizer, vocab_size=vocabulary_size, stop_token_ids=sorted(end_ids)
            )
            compiler = xgrammar.GrammarCompiler(information, max_threads=2)
            self._compiled = functools.lru_cache(KEPT)(functools.partial(_compile, compiler, max_think_chars))
            self._compiled(ANYTHING)
        except (RuntimeError, ValueError) as error:
            raise LoadError(f"xgrammar cannot use this tokenizer or grammar: {error}") from error

    def constraint(self, allowed: Allowed) -> Constraint:
        """A constraint for a new row."""
        matcher = self._xgrammar.GrammarMatcher(self._compiled(allowed))
        return Constraint(matcher, self._xgrammar.allocate_token_bitmask(1, self._vocabulary_size))


def _compile(compiler: Any, max_think_chars: int, allowed: Allowed) -> Any:
    return compiler.compile_grammar(answer_grammar(allowed, max_think_chars))


def _unpacked(words: torch.Tensor, size: int) -> torch.Tensor:
    """One bool a token from 32 of them a word, the lowest bit first (xgrammar's bitmask)."""
    bits = (words[:, None] >> torch.arange(32)) & 1
    return bits.reshape(-1)[:size].bool()
