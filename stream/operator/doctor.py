"""`proguard-stream doctor`: would a worker with these settings work, and if not, what is to be done?"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import typer
from rich.text import Text

from stream.errors import ConfigurationError
from stream.operator.checks.result import Check, State, fail, ok
from stream.operator.flags import parse_flags
from stream.operator.kafka import ConfigOption
from stream.operator.output import JsonFlag, emit_json, out
from stream.operator.rendering import clean
from stream.settings import WorkerSettings, load_settings

_STYLES = {State.OK: "green", State.WARN: "yellow", State.FAIL: "bold red"}


def examine(settings: WorkerSettings) -> list[Check]:
    """All checks, those of Kafka, Triton and the stores side by side. Blocks as long as the slowest of them."""
    # tritonclient and obstore cost half a second that no other command should pay.
    from stream.operator.checks.evidence import evidence_checks
    from stream.operator.checks.guard import guard_checks
    from stream.operator.checks.kafka import kafka_checks
    from stream.operator.checks.local import policy_check, port_check

    groups: list[tuple[str, Callable[[], list[Check]]]] = [
        ("kafka", lambda: kafka_checks(settings)),
        ("triton", lambda: guard_checks(settings.guard)),
        ("evidence", lambda: evidence_checks(settings.evidence)),
        ("policy", lambda: [policy_check(settings.policy_path)]),
        ("health port", lambda: [port_check(settings.health)]),
    ]
    with ThreadPoolExecutor(len(groups)) as pool:
        running = [pool.submit(_guarded, name, group) for name, group in groups]
        return [check for group in running for check in group.result()]


def _guarded(name: str, group: Callable[[], list[Check]]) -> list[Check]:
    """A check that fails in a way nobody foresaw must not hide the others."""
    try:
        return group()
    except Exception as error:
        return [fail(name, f"the check itself failed: {type(error).__name__}: {error}", "report this")]


def doctor(context: typer.Context, config: ConfigOption = None, as_json: JsonFlag = False) -> None:
    """Check settings, Kafka, topics, Triton, stores, policy and port, and say what to fix.

    Takes the flags of `worker` too, e.g. --kafka.bootstrap-servers. Exit status 1 when a check failed.
    """
    try:
        settings = load_settings(flags=parse_flags(context.args, "proguard-stream doctor"), config=config)
    except ConfigurationError as error:
        checks = [fail("settings", line, "proguard-stream worker --help") for line in str(error).splitlines()]
    else:
        checks = [ok("settings", "valid"), *examine(settings)]
    failed = any(check.state is State.FAIL for check in checks)
    if as_json:
        emit_json({"ok": not failed, "checks": [check.as_json() for check in checks]})
    else:
        _show(checks)
    if failed:
        raise typer.Exit(1)


def _show(checks: Sequence[Check]) -> None:
    console = out()
    width = min(32, max(len(check.name) for check in checks))
    for check in checks:
        line = Text().append(f"{check.state.value:<4} ", style=_STYLES[check.state])
        line.append(f"{clean(check.name):<{width}} ", style="bold")
        line.append(clean(check.detail))
        if check.fix:
            line.append(f"\n     {'':<{width}} → {clean(check.fix)}", style="cyan")
        console.print(line, soft_wrap=True)
    counts = {state: sum(check.state is state for check in checks) for state in State}
    console.print(f"{counts[State.OK]} ok, {counts[State.WARN]} to look at, {counts[State.FAIL]} failed", markup=False)
