"""Every metric of the worker, declared once: what it means and what to do when it moves.

Labels are from closed sets only: no key, URI, tenant or id ever becomes a label.
"""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)


class WorkerMetrics:
    """The worker's metrics on a registry of their own (no process-wide state)."""

    def __init__(self, registry: CollectorRegistry | None = None) -> None:
        self.registry = registry or CollectorRegistry()
        r = self.registry

        self.events = Counter(
            "proguard_events_total",
            "Records taken from the content topic. Flat while lag grows: the worker is paused or stuck; see proguard_paused.",
            registry=r,
        )
        self.verdicts = Counter(
            "proguard_verdicts_total",
            "Verdicts acknowledged by Kafka, by status and action. A jump of indeterminate: look at dead letters by reason; "
            "a jump of one action: a policy, a model or an attack changed.",
            ["status", "action"],
            registry=r,
        )
        self.dead_letters = Counter(
            "proguard_dead_letters_total",
            "Dead letters acknowledged by Kafka, by reason. Unreadable ones: talk to the producer; images: the store or its "
            "credentials; guard: the model server.",
            ["reason"],
            registry=r,
        )
        self.ood = Counter(
            "proguard_ood_events_total",
            "Risks named outside the policy. A rise is what the emerging-risk board is for.",
            registry=r,
        )
        self.degraded = Counter(
            "proguard_degraded_total",
            "Verdicts that were reached by a fallback, by kind. A rise of tolerant_reading: the model drifts from its format.",
            ["kind"],
            registry=r,
        )
        self.stage = Histogram(
            "proguard_stage_seconds",
            "Time of one event in a stage. judge grows: the guard is saturated; evidence grows: the object store is. When neither "
            "does and proguard_event_seconds grows: Kafka is.",
            ["stage"],
            buckets=_SECONDS,
            registry=r,
        )
        self.latency = Histogram(
            "proguard_event_seconds",
            "Time from reading an event to its acknowledged outcome. Watch the tail against the platform's promise.",
            buckets=_SECONDS,
            registry=r,
        )
        self.in_flight = Gauge(
            "proguard_events_in_flight",
            "Events taken and not yet committed-ready. Near proguard_events_in_flight_limit: the guard is the bottleneck; "
            "add guards or workers.",
            registry=r,
        )
        self.in_flight_limit = Gauge(
            "proguard_events_in_flight_limit", "The setting limits.max_in_flight_events, to compare with.", registry=r
        )
        self.guard_in_flight = Gauge(
            "proguard_guard_in_flight",
            "Requests on the guard. At its limit all the time: the guard is saturated.",
            registry=r,
        )
        self.guard_up = Gauge(
            "proguard_guard_up", "1 when the guard answered its last probe or request. 0: look at Triton.", registry=r
        )
        self.guard_errors = Counter(
            "proguard_guard_failures_total",
            "Events for which the guard gave no answer, by kind, after retries. Look at Triton's log.",
            ["kind"],
            registry=r,
        )
        self.paused = Gauge(
            "proguard_paused",
            "1 while the worker takes no events, by why. guard: it is down; backlog: events in flight are at their limit; "
            "stopping: it drains.",
            ["why"],
            registry=r,
        )
        self.partitions = Gauge(
            "proguard_partitions_assigned",
            "Partitions this worker owns. 0 for long: more workers than partitions, or the group does not settle.",
            registry=r,
        )
        self.commits = Counter(
            "proguard_commits_total",
            "Offset commits by result. Failures that go on: the group coordinator is not reachable.",
            ["result"],
            registry=r,
        )
        self.uncommitted = Gauge(
            "proguard_ledger_offsets",
            "Offsets in the ledger at or beyond the watermark. Growing without bound: one event does not finish.",
            registry=r,
        )
        self.evidence_bytes = Counter(
            "proguard_evidence_bytes_total", "Bytes of images fetched. For capacity planning of the store.", registry=r
        )
        self.tokens = Counter(
            "proguard_tokens_total",
            "Tokens the guard read and wrote. Rising per event: longer content, or a longer policy.",
            ["direction"],
            registry=r,
        )
