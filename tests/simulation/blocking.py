"""Code that blocks a thread, made into coroutines that wait in simulated time.

`ConsumerThread` and the sinks call Kafka clients that block. A simulation without operating-system threads cannot run them as
they are, and a copy written by hand would only be as right as its writer. So their source is parsed, every call that blocks
becomes `await` of that call, and every method with such a call becomes `async def`; nothing else changes, line numbers included.
What runs in the simulation is the statements of the product, in their order.
"""

from __future__ import annotations

import ast
import asyncio
import concurrent.futures
import inspect
from collections.abc import Iterable
from functools import cache
from types import ModuleType, SimpleNamespace
from typing import Any

from stream.worker import consumer, sinks
from tests.simulation.events import cached_output_records
from tests.simulation.loop import SimEvent, SimExecutor, SimOsThread

Edit = tuple[str, str]
"""A piece of source that must occur exactly once, and what stands there instead: how a mutation breaks something."""

_CONSUMER_CALLS = (
    "self._consumer.*",
    "consumer.*",
    "call",
    "future.result",
    "self._backlog.wait_for_room",
    "self._finish.wait",
)
_SINK_CALLS = (
    "self._producer.init_transactions",
    "self._producer.send_offsets_to_transaction",
    "self._producer.commit_transaction",
    "self._producer.abort_transaction",
    "self._thread.shutdown",
    "self._closing.wait",
    "call",
)
_SINK_SERVE_S = 0.02
_POLL_S = 0.4
"""Longer than the product's, so that idle polls do not fill a schedule."""


@cache
def consumer_module(edits: tuple[Edit, ...] = ()) -> SimpleNamespace:
    """`stream.worker.consumer`, its `ConsumerThread` a coroutine."""
    found = coroutines(consumer, _CONSUMER_CALLS, edits)
    found.update(
        threading=_THREADING, future_result=_future_result, _POLL_S=_POLL_S, _PATIENCE_S=2.0, _COMMITTED_S=20.0
    )
    return SimpleNamespace(**found)


@cache
def sinks_module(edits: tuple[Edit, ...] = ()) -> SimpleNamespace:
    """`stream.worker.sinks`, its sinks waiting in simulated time."""
    found = coroutines(sinks, _SINK_CALLS, edits)
    found.update(threading=_THREADING, ThreadPoolExecutor=SimExecutor, _SERVE_S=_SINK_SERVE_S, _CALL_S=2.0)
    found.update(output_records=cached_output_records)
    return SimpleNamespace(**found)


def coroutines(module: ModuleType, blocking: Iterable[str], edits: Iterable[Edit] = ()) -> dict[str, Any]:
    """Run `module`'s source again with what blocks awaited, and return its names.

    `blocking` names the calls that block as they are written, `*` for any method. Raises `ValueError` for an edit whose text
    does not occur exactly once: the product has moved on, and the mutation must follow.
    """
    source = inspect.getsource(module)
    for old, new in edits:
        if source.count(old) != 1:
            raise ValueError(f"{old!r} occurs {source.count(old)} times in {module.__name__}")
        source = source.replace(old, new)
    tree = ast.parse(source)
    for node in tree.body:
        if isinstance(node, ast.ClassDef):
            _convert(node, frozenset(blocking))
    ast.fix_missing_locations(tree)
    namespace: dict[str, Any] = {"__name__": module.__name__, "__file__": module.__file__}
    exec(compile(tree, module.__file__ or "", "exec"), namespace)
    return namespace


def _convert(owner: ast.ClassDef, blocking: frozenset[str]) -> None:
    methods = [node for node in owner.body if isinstance(node, ast.FunctionDef)]
    found: set[str] = set()
    while True:
        known = blocking | {f"self.{name}" for name in found}
        more = {method.name for method in methods if _blocks(method, known)} - found
        if not more:
            break
        found |= more
    known = blocking | {f"self.{name}" for name in found}
    for index, node in enumerate(owner.body):
        if isinstance(node, ast.FunctionDef) and node.name in found:
            fields = {name: getattr(node, name) for name in node._fields}
            owner.body[index] = ast.copy_location(ast.AsyncFunctionDef(**fields), node)
    for node in owner.body:
        if isinstance(node, ast.AsyncFunctionDef):
            node.body = [_Awaiting(known).visit(statement) for statement in node.body]


def _blocks(method: ast.FunctionDef, blocking: frozenset[str] | set[str]) -> bool:
    searcher = _Awaiting(frozenset(blocking))
    for statement in method.body:
        searcher.search(statement)
    return searcher.found


class _Awaiting(ast.NodeTransformer):
    """Puts `await` before blocking calls; not in lambdas and functions inside, which are called later."""

    def __init__(self, blocking: frozenset[str]) -> None:
        self._blocking = blocking
        self.found = False

    def search(self, node: ast.AST) -> None:
        if isinstance(node, ast.Lambda | ast.FunctionDef | ast.AsyncFunctionDef):
            return
        if isinstance(node, ast.Call) and self._is_blocking(node):
            self.found = True
        for child in ast.iter_child_nodes(node):
            self.search(child)

    def visit_Lambda(self, node: ast.Lambda) -> ast.AST:
        return node

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        return node

    def visit_AsyncFunctionDef(self, node: ast.AsyncFunctionDef) -> ast.AST:
        return node

    def visit_Call(self, node: ast.Call) -> ast.AST:
        self.generic_visit(node)
        if not self._is_blocking(node):
            return node
        if ast.unparse(node.func) == "future.result":
            name = ast.copy_location(ast.Name("future_result", ast.Load()), node.func)
            node = ast.copy_location(ast.Call(name, [ast.Name("future", ast.Load()), *node.args], node.keywords), node)
        return ast.copy_location(ast.Await(node), node)

    def _is_blocking(self, node: ast.Call) -> bool:
        name = ast.unparse(node.func)
        return name in self._blocking or f"{name.rpartition('.')[0]}.*" in self._blocking


async def _future_result(future: concurrent.futures.Future[Any], timeout: float) -> Any:
    """What `future.result(timeout)` does, for a thread of the simulation."""
    loop = asyncio.get_running_loop()
    woken: asyncio.Future[None] = loop.create_future()

    def wake(_future: object) -> None:
        if not woken.done():
            woken.set_result(None)

    future.add_done_callback(wake)
    await asyncio.wait([woken], timeout=timeout)
    if not future.done():
        raise concurrent.futures.TimeoutError
    return future.result(0)


_THREADING = SimpleNamespace(Thread=SimOsThread, Event=SimEvent)
