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
        self.dead_letter_ratio = Gauge(
            "proguard_dead_letter_ratio",
            "Share of dead letters among the latest outcomes, redriven events aside. Beyond delivery.dead_letters.max_ratio the "
            "worker stops itself: look at proguard_dead_letters_total by reason before it does.",
            registry=r,
        )
        self.dead_letter_run = Gauge(
            "proguard_dead_letter_run",
            "Dead letters one after another, redriven events aside. At delivery.dead_letters.max_run the worker stops itself: look "
            "at what the latest ones have in common.",
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
            "Time of an event in a stage, of those that have a verdict. judge grows: the guard is saturated; evidence grows: the "
            "object store is. When neither does and proguard_event_seconds grows: Kafka is.",
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
        self.guard_limit = Gauge(
            "proguard_guard_in_flight_limit",
            "Requests that may be on the guard now. At guard.max_in_flight: it is healthy. Below for long: requests queue there; add "
            "guards. Dips to guard.min_in_flight every half minute then: the limiter measures the quiet guard.",
            registry=r,
        )
        self.guard_queue = Gauge(
            "proguard_guard_queue",
            "Events that wait for a place on the guard. Long while proguard_guard_in_flight is at its limit: add guards or wait; "
            "deadlines run meanwhile.",
            registry=r,
        )
        self.retries = Counter(
            "proguard_guard_retries_total",
            "Requests that were made again, by why: timeout, or outage (these cost no budget). Timeouts that go on: look at the "
            "guard's slowest answers and guard.timeout_s.",
            ["why"],
            registry=r,
        )
        self.retries_refused = Counter(
            "proguard_guard_retries_refused_total",
            "Failures that stood because the retry budget was used up. Any: the guard fails more than it should; look at Triton.",
            registry=r,
        )
        self.cache_lookups = Counter(
            "proguard_cache_lookups_total",
            "Verdict cache by result: hit, joined (waited for the same content, under way), miss. Hits and joined by all is what the "
            "cache saves. Hits jump: look for a spam wave; they fall to none: a policy or a model changes all the time.",
            ["result"],
            registry=r,
        )
        self.cache_entries = Gauge(
            "proguard_cache_entries",
            "Answers kept. At cache.max_entries with few hits: compare with more entries, or switch the cache off.",
            registry=r,
        )
        self.cache_bytes = Gauge(
            "proguard_cache_bytes", "Memory of the answers kept, about. To compare with cache.max_bytes.", registry=r
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
        self.canary_on = Gauge(
            "proguard_canary_on",
            "1 while the canary answers its share. 0 with a canary configured: it broke a limit and is off until this worker is started "
            "anew; look at proguard_canary_off_total.",
            registry=r,
        )
        self.canary_requests = Counter(
            "proguard_canary_requests_total",
            "Requests to the canary by result: answered, unreadable, failed; the stable guard answered the latter two again. "
            "Unreadable or failed ones grow: look at the canary's log before it is switched off.",
            ["result"],
            registry=r,
        )
        self.canary_compared = Counter(
            "proguard_canary_compared_total",
            "Canary answers held against the stable guard's by result: agreed, differed, skipped (too many at a time, or one "
            "side has no answer). Many differ: compare both on labelled data, `proguard-stream model promote` does.",
            ["result"],
            registry=r,
        )
        self.canary_off = Counter(
            "proguard_canary_off_total",
            "Canaries that were switched off, by why: format, agreement, failures. Any: roll the canary back and take it out of the "
            "settings, or a worker that restarts will try it again.",
            ["why"],
            registry=r,
        )
        self.deleted_unread = Counter(
            "proguard_deleted_unread_total",
            "Offsets that the content topic's retention had deleted before this worker came to them. Anything but 0 is loss: keep events "
            "longer, or judge faster.",
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
        self.remembered = Gauge(
            "proguard_ledger_remembered_offsets",
            "Completed offsets beyond a gap, kept in commit metadata. Growing steadily: one event of a partition does not finish.",
            registry=r,
        )
        self.waiting_partitions = Gauge(
            "proguard_ledger_full_partitions",
            "Partitions that wait because an old event has not finished and their window is full. Look at the guard's slowest "
            "answers, and at limits.deadline_s.",
            registry=r,
        )
        self.batches = Counter(
            "proguard_batches_total",
            "Batches (transactions, when exactly once) by result. Aborts that go on: rebalances without end, or a broker in trouble.",
            ["result"],
            registry=r,
        )
        self.evidence_bytes = Counter(
            "proguard_evidence_bytes_total", "Bytes of images fetched. For capacity planning of the store.", registry=r
        )
        self.tokens = Counter(
            "proguard_tokens_total",
            "Tokens that the guard read and wrote for the verdicts. Rising per event: longer content, or a longer policy.",
            ["direction"],
            registry=r,
        )
