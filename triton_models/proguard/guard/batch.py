"""The sequences that are being written together: newcomers join, each step adds a token to every row, the finished leave."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field

import torch

from .chat import Prepared
from .constraint import Constraint
from .engine import FinishReason, Generation, Token
from .label_lines import LineTail
from .prefixes import Prefixes
from .runner import Runner
from .vocabulary import Vocabulary

LIKELY = 20
"""How many log-probabilities a token carries where a label may come."""


@dataclass(eq=False, slots=True)
class Job:
    """A request on its way through the engine. `asked_at` is the engine's clock when it came."""

    prompt: Prepared
    positions: torch.Tensor
    """[3, prompt tokens]"""
    max_tokens: int
    constraint: Constraint | None
    asked_at: float
    future: Future[Generation] = field(default_factory=Future)


@dataclass(eq=False, slots=True)
class Row:
    """A job in the batch. Its slot in the cache is its place in `Batch.rows`."""

    job: Job
    past: int
    """Positions that are in the cache. The newest token is not among them: the next step puts it there."""
    next_position: int
    """The newest token's rotary position, the same in all three directions behind the prompt."""
    tokens: list[Token] = field(default_factory=list)
    tail: LineTail = field(default_factory=LineTail)
    first_token_s: float = 0.0
    finish: FinishReason | None = None


class Batch:
    """Not thread-safe: the scheduler's thread owns it."""

    def __init__(
        self,
        runner: Runner,
        vocabulary: Vocabulary,
        prefixes: Prefixes,
        *,
        prefill_tokens: int,
        clock: Callable[[], float],
    ) -> None:
        self.rows: list[Row] = []
        self.prompt_tokens = 0
        self.generated_tokens = 0
        self._runner = runner
        self._vocabulary = vocabulary
        self._prefixes = prefixes
        self._prefill_tokens = prefill_tokens
        self._clock = clock

    @property
    def reused_tokens(self) -> int:
        """Prompt tokens that came from a remembered prefix."""
        return self._prefixes.reused_tokens

    def forget_prefixes(self) -> None:
        """Give back the memory that only speeds things up."""
        self._prefixes.forget()

    def take(self, waiting: Sequence[Job]) -> int:
        """How many of `waiting`, from the first, may be prefilled in one pass. At least one, if there is one."""
        longest = 0
        for number, job in enumerate(waiting):
            longest = max(longest, len(job.prompt.token_ids) - job.prompt.prefix)
            if number and longest * (number + 1) > self._prefill_tokens:
                return number
        return len(waiting)

    def join(self, jobs: Sequence[Job]) -> None:
        """Prefill `jobs`, write each one's first token, and add them. When memory runs out, the batch is as it was before."""
        first = len(self.rows)
        cache = self._runner.cache
        # The room for the whole answer is taken now, so that a running row never has to be refused for want of it. In a prefill
        # of several, the shorter rows are filled up to the longest one's end.
        whole = max(len(job.prompt.token_ids) + job.max_tokens for job in jobs)
        filled = max(job.prompt.prefix for job in jobs) + max(len(job.prompt.token_ids) - job.prompt.prefix for job in jobs)
        cache.reserve(first + len(jobs), max(whole, filled))
        past = [self._prefixes.restore(job.prompt, first + place) for place, job in enumerate(jobs)]
        rests = [job.prompt.token_ids[start:] for job, start in zip(jobs, past, strict=True)]
        images = self._runner.image_embeddings([job.prompt for job in jobs])
        if len(jobs) == 1:
            logits = self._prefixes.in_chunks(first, past[0], rests[0], jobs[0].positions[:, past[0] :], images)
        else:
            positions = torch.zeros(3, len(jobs), max(map(len, rests)), dtype=torch.long)
            for place, (job, start) in enumerate(zip(jobs, past, strict=True)):
                positions[:, place, : len(rests[place])] = job.positions[:, start:]
            logits = self._runner.extend(first, past, rests, positions, images)
        rows = [Row(job, len(job.prompt.token_ids), int(job.positions.max()) + 1) for job in jobs]
        self._write(rows, logits)
        for row in rows:
            row.first_token_s = self._clock() - row.job.asked_at
            self.prompt_tokens += row.past
        self.rows += rows

    def step(self) -> None:
        """One token for every row. When memory runs out, the rows are as they were before."""
        positions = torch.tensor([[[row.next_position] for row in self.rows]]).expand(3, -1, -1)
        newest = [[row.tokens[-1].id] for row in self.rows]
        logits = self._runner.extend(0, [row.past for row in self.rows], newest, positions)
        for row in self.rows:
            row.past += 1
            row.next_position += 1
        self._write(self.rows, logits)

    def leave(self, row: Row) -> None:
        """Take `row` out; the last row moves into its slot."""
        place = self.rows.index(row)
        last = self.rows.pop()
        if last is not row:
            self._runner.cache.move(len(self.rows), place, last.past)
            self.rows[place] = last

    def generation(self, row: Row) -> Generation:
        """What a finished row has written."""
        assert row.finish is not None
        return Generation(
            text=self._vocabulary.text_of(token.id for token in row.tokens),
            tokens=tuple(row.tokens),
            prompt_tokens=len(row.job.prompt.token_ids),
            finish_reason=row.finish,
            first_token_s=row.first_token_s,
        )

    @torch.inference_mode()
    def _write(self, rows: Sequence[Row], logits: torch.Tensor) -> None:
        """The likeliest allowed token of each row. Changes no row before all that can fail was done."""
        likely = self._likely(rows, logits)
        constrained = [(place, row.job.constraint) for place, row in enumerate(rows) if row.job.constraint is not None]
        if constrained:
            likely_of_all = [torch.log_softmax(logits[place], -1) for place, _ in constrained]
            for place, constraint in constrained:
                constraint.apply(logits[place])
        ids: list[int] = logits.argmax(-1).tolist()
        if constrained:
            # The written token may be outside the likeliest when others were forbidden.
            for (place, _), probabilities in zip(constrained, likely_of_all, strict=True):
                if place in likely:
                    likely[place].setdefault(ids[place], float(probabilities[ids[place]]))
        for place, (row, id) in enumerate(zip(rows, ids, strict=True)):
            if row.job.constraint is not None:
                row.job.constraint.accept(id)
            if id in self._runner.end_ids:
                row.finish = "stop"
                continue
            row.tokens.append(Token(id, likely.get(place)))
            row.tail.write(self._vocabulary.bytes_of(id))
            self.generated_tokens += 1
            if len(row.tokens) >= row.job.max_tokens:
                row.finish = "length"

    def _likely(self, rows: Sequence[Row], logits: torch.Tensor) -> dict[int, dict[int, float]]:
        places = [place for place, row in enumerate(rows) if row.tail.may_write_label]
        if not places:
            return {}
        # log_softmax of the few best needs the whole row's sum, not the whole row's probabilities.
        chosen = logits if len(places) == len(rows) else logits[torch.tensor(places, device=logits.device)]
        best, ids = chosen.topk(min(LIKELY, chosen.shape[-1]), dim=-1)
        best = best - chosen.logsumexp(-1, keepdim=True)
        return {
            place: dict(zip(row_ids, row_best, strict=True))
            for place, row_ids, row_best in zip(places, ids.tolist(), best.tolist(), strict=True)
        }
