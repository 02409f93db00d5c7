"""The stand-in has the signatures of the real one.

Copied by hand from NVIDIA/TensorRT-LLM in its 1.2 line: `llmapi/llm.py` (`BaseLLM.__init__`, `generate_async`, `get_stats_async`),
`sampling_params.py`, `executor/result.py` (`CompletionOutput`, `GenerationResult`), `llmapi/llm_args.py`, and `executor/executor.py` at
ed53795b33fc139493f762a1c6c53f691cf52d38. The index that they were read from names a commit for the last one only; the others are
its neighbours by content (they have `mpi_disabled`, `cache_salt`, `scheduling_params`). Nobody has compared them with the installed 1.2.1:
`make gpu-check` does, on a machine that has it.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from dataclasses import fields
from typing import Any

import pytest

from tests.triton_models.proguard import fake_trt, trt_signatures


@pytest.fixture(autouse=True)
def _importable() -> Iterator[None]:
    with fake_trt.importable():
        yield


def test_the_stand_in_has_the_recorded_signatures() -> None:
    import tensorrt_llm
    from tensorrt_llm import llmapi

    assert tensorrt_llm.__version__ == trt_signatures.RELEASE
    assert trt_signatures.differences(tensorrt_llm, llmapi) == []


def test_a_changed_signature_is_noticed() -> None:
    import tensorrt_llm
    from tensorrt_llm import llmapi

    class Other(tensorrt_llm.LLM):  # type: ignore[misc, name-defined]
        def generate_async(self, inputs: Any, sampling: Any = None) -> Any: ...

    tensorrt_llm.LLM = Other
    assert trt_signatures.differences(tensorrt_llm, llmapi) != []


def test_every_field_that_is_recorded_has_its_default() -> None:
    from tensorrt_llm.sampling_params import SamplingParams

    assert len({field.name for field in fields(SamplingParams)}) == len(inspect.signature(SamplingParams).parameters)
    assert SamplingParams().max_tokens == 32
