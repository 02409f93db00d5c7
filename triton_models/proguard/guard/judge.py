"""From a request to an answer, whatever engine writes it."""

from __future__ import annotations

from dataclasses import dataclass

from .calibration import Calibration
from .engine import Conversation, Engine, FinishReason, Generation
from .errors import TooLongError
from .form import is_image_alone, is_well_formed
from .scores import label_scores

NUDGE = (
    "Answer in exactly this form and write nothing else:\n<think>a short reason</think>\n<answer>\nRequest:safe or unsafe\n"
    "Response:safe or unsafe\nCategory:None, a listed ID or a name of about four words\n</answer>"
)
NUDGE_IMAGE = NUDGE.replace("Response:safe or unsafe\n", "")
"""The same without the Response line, which an image alone does not have."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What goes back to the client: the raw completion and what is known about it."""

    text: str
    finish_reason: FinishReason
    request_score: float
    """Calibrated probability of unsafe at the request's label; NaN where there is none."""
    response_score: float
    prompt_tokens: int
    """Tokens read, over all times of asking."""
    completion_tokens: int
    """Tokens written, over all times of asking."""
    first_token_s: float = 0.0
    """Seconds to the first token of the first time of asking."""


@dataclass(frozen=True, slots=True)
class JudgeState:
    """Counters; they only grow."""

    answered: int
    """Answers given."""
    unparsable: int
    """Answers given that do not have the strict form; the service may still be able to read them."""
    nudged: int
    """Times that a request was asked again."""
    repaired: int
    """Times that asking again gave the strict form."""


class Judge:
    """Asks an engine, checks the form of what it wrote, asks again where that is wrong, and reads the scores.

    `constrained` lets the engine write only what the grammar allows. `nudges` is how many times a request whose answer breaks the
    form is asked again, with a reminder of the form behind the user's message; 0 never does.
    """

    def __init__(self, engine: Engine, *, calibration: Calibration, constrained: bool, nudges: int) -> None:
        if nudges < 0:
            raise ValueError("nudges must not be negative")
        self._engine = engine
        self._calibration = calibration
        self._constrained = constrained
        self._nudges = nudges
        self._state = JudgeState(0, 0, 0, 0)

    def state(self) -> JudgeState:
        """The counters now. Never blocks; may be called from any thread."""
        return self._state

    async def answer(self, system: str, user: str, images: tuple[bytes, ...], max_tokens: int) -> Answer:
        """The answer of at most `max_tokens` tokens, all times of asking together.

        The first answer with the right form; where none has it, the first one that was given, as it is: the service refuses it
        or reads it tolerantly. The engine's errors pass through, but a reminder that makes the prompt too long is dropped.
        Cancelling reaches the engine.
        """
        image_alone = is_image_alone(user, bool(images))
        given = await self._engine.generate(Conversation(system, user, images, max_tokens, self._constrained))
        first_token_s = given.first_token_s
        read, written = given.prompt_tokens, len(given.tokens)
        good = is_well_formed(given.text, image_alone=image_alone)
        asked_again = 0
        while not good and asked_again < self._nudges and written < max_tokens:
            nudge = NUDGE_IMAGE if image_alone else NUDGE
            asking = Conversation(system, user, images, max_tokens - written, self._constrained, nudge)
            asked_again += 1
            self._state = _more(self._state, nudged=1)
            try:
                again = await self._engine.generate(asking)
            except TooLongError:
                break
            read, written = read + again.prompt_tokens, written + len(again.tokens)
            if is_well_formed(again.text, image_alone=image_alone):
                given, good = again, True
                self._state = _more(self._state, repaired=1)
        self._state = _more(self._state, answered=1, unparsable=0 if good else 1)
        return self._answer(given, read, written, first_token_s)

    def _answer(self, given: Generation, read: int, written: int, first_token_s: float) -> Answer:
        raw = label_scores(given.tokens, self._engine.token_text)
        request, response = self._calibration.apply(*raw)
        return Answer(given.text, given.finish_reason, request, response, read, written, first_token_s)


def _more(
    state: JudgeState, *, answered: int = 0, unparsable: int = 0, nudged: int = 0, repaired: int = 0
) -> JudgeState:
    return JudgeState(
        state.answered + answered,
        state.unparsable + unparsable,
        state.nudged + nudged,
        state.repaired + repaired,
    )
