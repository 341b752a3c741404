"""Prometheus metrics of the service: counts, sizes and times, labelled by route and never by person."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram


class Metrics:
    """One registry for one service."""

    def observe_request(self, method: str, route: str, status: int, seconds: float) -> None:
        """Count an answered request; its labels are looked up once."""
        known = self._answered.get((method, route, status))
        if known is None:
            known = (self.requests.labels(method, route, status), self.latency.labels(method, route))
            self._answered[method, route, status] = known
        known[0].inc()
        known[1].observe(seconds)

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._answered: dict[tuple[str, str, int], tuple[Counter, Histogram]] = {}
        self.requests = Counter(
            "recorder_http_requests_total",
            "HTTP requests by route and status.",
            ["method", "route", "status"],
            registry=self.registry,
        )
        self.latency = Histogram(
            "recorder_http_request_seconds",
            "Time to the end of the answer.",
            ["method", "route"],
            registry=self.registry,
        )
        self.in_flight = Gauge(
            "recorder_http_in_flight", "Requests being answered now.", registry=self.registry
        )
        self.received = Counter(
            "recorder_received_bytes_total", "Audio bytes taken in, as pushed.", registry=self.registry
        )
        self.pushes = Counter(
            "recorder_pushes_total", "Pushes by outcome.", ["outcome"], registry=self.registry
        )
        self.spooled = Counter(
            "recorder_spooled_total", "Deliveries made durable in the local spool.", registry=self.registry
        )
        self.drained = Counter(
            "recorder_spool_drained_total",
            "Spooled deliveries by what they came to.",
            ["outcome"],
            registry=self.registry,
        )
        self.spool_items = Gauge(
            "recorder_spool_items", "Deliveries waiting in the local spool.", registry=self.registry
        )
        self.spool_bytes = Gauge(
            "recorder_spool_bytes", "Bytes on disk of the local spool.", registry=self.registry
        )
        self.spool_oldest = Gauge(
            "recorder_spool_oldest_seconds", "Age of what waits longest in it.", registry=self.registry
        )
        self.spool_damaged = Gauge(
            "recorder_spool_damaged",
            "Deliveries in it that cannot be opened. Alarm above zero.",
            registry=self.registry,
        )
        self.streamed = Counter(
            "recorder_streamed_bytes_total", "Audio bytes played, unsealed.", registry=self.registry
        )
        self.corrupt = Counter(
            "recorder_corrupt_objects_total",
            "Objects refused because their bytes were not what was written. Alarm above zero.",
            registry=self.registry,
        )
        self.unsequenced = Gauge(
            "recorder_audit_unsequenced",
            "Audit entries waiting for the log's leader.",
            registry=self.registry,
        )
        self.overdue_erasures = Gauge(
            "recorder_overdue_erasures",
            "Erasures begun more than a day ago and not finished. Should be zero.",
            registry=self.registry,
        )
        self.overdue_recordings = Gauge(
            "recorder_overdue_recordings",
            "Recordings that were to go for more than a day, their erasure not begun. Should be zero.",
            registry=self.registry,
        )
        self.matter_reviews = Gauge(
            "recorder_matter_reviews_due",
            "Open matters whose review date has come.",
            registry=self.registry,
        )
        self.findings = Gauge(
            "recorder_findings_open",
            "Differences of store and catalogue that wait for a person. Should be zero.",
            ["kind"],
            registry=self.registry,
        )
        self.scrubbed = Counter(
            "recorder_scrubbed_objects_total", "Objects re-read and verified.", registry=self.registry
        )
        self.requests_due = Gauge(
            "recorder_rights_requests_open",
            "Data subjects' requests whose answer is owed, by urgency. Alarm when overdue is above zero.",
            ["urgency"],
            registry=self.registry,
        )
        self.breaches_open = Gauge(
            "recorder_breaches_open",
            "Breaches that the authority is not told of, by urgency. Alarm when overdue is above zero.",
            ["urgency"],
            registry=self.registry,
        )
        self.outdated_decisions = Gauge(
            "recorder_outdated_decisions",
            "Recordings whose stored decision an older schedule version made, by controller id.",
            ["controller"],
            registry=self.registry,
        )
        self.webhooks = Counter(
            "recorder_webhook_attempts_total",
            "Webhook messages sent, by outcome.",
            ["outcome"],
            registry=self.registry,
        )
        self.webhooks_dead = Gauge(
            "recorder_webhook_dead_letters",
            "Webhook messages that were given up and wait for a person. Alarm above zero.",
            registry=self.registry,
        )
        self.gap_hours = Gauge(
            "recorder_completeness_gap_hours",
            "Hours of the last two weeks in which a source brought fewer recordings than it should have.",
            ["source"],
            registry=self.registry,
        )
        self.expected_recordings = Gauge(
            "recorder_expected_recordings",
            "Recordings that were told of and whose audio is not here, by outcome.",
            ["controller", "outcome"],
            registry=self.registry,
        )
        self.jobs = Gauge(
            "recorder_jobs", "Background work by kind and state.", ["kind", "state"], registry=self.registry
        )
        self.fetches = Counter(
            "recorder_fetches_total",
            "Recordings fetched from their senders: done, again (will be tried again), failed (given up).",
            ["outcome"],
            registry=self.registry,
        )
        self.fetches_waiting = Gauge(
            "recorder_fetches_waiting", "Recordings still to be fetched.", registry=self.registry
        )
        self.ready = Gauge(
            "recorder_ready", "Whether the service can accept durably.", registry=self.registry
        )
