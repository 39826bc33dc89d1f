"""Every metric, once: name, help and labels. Served at ``/metrics``, listed in docs/metrics.md."""

from __future__ import annotations

from prometheus_client import REGISTRY, Counter, Gauge, Histogram

_LATENCY = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0)
_SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048)

RECORDS = Counter("headrace_records_total", "Records consumed, by request topic.", ["topic"])
RESULTS = Counter("headrace_results_total", "Results completed (they count as soon as they await commit).", ["route"])
DEAD_LETTERS = Counter("headrace_dead_letters_total", "Dead letters, by stage and reason code.", ["stage", "code"])
RETRIES = Counter("headrace_retries_total", "Records put off, by route and delay topic.", ["route", "topic"])
DUPLICATES = Counter(
    "headrace_duplicates_total", "Records without an outcome, as their event had its result already.", ["route"]
)
RESTORE_SECONDS = Histogram(
    "headrace_restore_seconds",
    "How long new partitions waited until the ids that had results were read.",
    buckets=(0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 30.0, 60.0, 120.0, 240.0),
)
BREAKER_STATE = Gauge(
    "headrace_breaker_state", "Breaker of a route's model: 0 closed, 1 half-open, 2 open.", ["route", "model"]
)
BREAKER_CHANGES = Counter(
    "headrace_breaker_changes_total", "Breakers that became closed, half_open or open.", ["route", "model", "state"]
)
DIVERTED = Counter(
    "headrace_diverted_total", "Parts answered by the fallback, as the breaker was open.", ["route", "to"]
)
IN_FLIGHT_RECORDS = Gauge("headrace_in_flight_records", "Records consumed and not yet committed.")
IN_FLIGHT_BYTES = Gauge("headrace_in_flight_bytes", "Bytes consumed and not yet committed.")
ASSIGNED_PARTITIONS = Gauge("headrace_assigned_partitions", "Partitions this worker owns.")

BATCH_RECORDS = Histogram(
    "headrace_batch_records",
    "Rows in one infer call: one a part, for a sampled video one a frame.",
    ["route"],
    buckets=_SIZES,
)
INFER_SECONDS = Histogram("headrace_infer_seconds", "Duration of one infer call.", ["route"], buckets=_LATENCY)
INFER_CALLS = Counter(
    "headrace_infer_calls_total", "Infer calls by outcome: ok, poison, retry, unavailable.", ["route", "outcome"]
)
WAITING_SECONDS = Histogram(
    "headrace_waiting_seconds", "From a part's admission to its infer call.", ["route"], buckets=_LATENCY
)

SHADOW = Counter(
    "headrace_shadow_total",
    "Parts that a shadow was to answer as well: answered, failed, late, skipped (not asked), dropped (event refused or "
    "partition gone).",
    ["route", "outcome"],
)
SHADOW_WAITING_SECONDS = Histogram(
    "headrace_shadow_waiting_seconds", "How long an answered event waited for its shadow.", buckets=_LATENCY
)

USER_CODE_SECONDS = Histogram(
    "headrace_user_code_seconds", "User code on one record: before, after, agent.", ["kind"], buckets=_LATENCY
)
VIDEO_SECONDS = Histogram(
    "headrace_video_seconds",
    "Time to sample one video's frames, waiting for a process included.",
    ["route"],
    buckets=_LATENCY,
)
VIDEO_FRAMES = Counter("headrace_video_frames_total", "Frames sampled from videos.", ["route"])

TRANSACTIONS = Counter(
    "headrace_transactions_total", "Transactions by outcome: committed, or dropped with their partitions.", ["outcome"]
)
TRANSACTION_RETRIES = Counter(
    "headrace_transaction_retries_total",
    "Transactions tried again: abort, stale_generation, indefinite, too_large.",
    ["reason"],
)
TRANSACTION_SECONDS = Histogram(
    "headrace_transaction_seconds", "From a unit's collection to its known outcome.", buckets=_LATENCY
)
TRANSACTION_RECORDS = Histogram("headrace_transaction_records", "Input records in one transaction.", buckets=_SIZES)
KAFKA_ERRORS = Counter("headrace_kafka_errors_total", "Errors that the Kafka clients reported.", ["client"])
DEPENDENCY_UP = Gauge("headrace_dependency_up", "1 if the last call to it was answered.", ["dependency"])

ALL = (
    RECORDS,
    RESULTS,
    DEAD_LETTERS,
    DUPLICATES,
    RESTORE_SECONDS,
    IN_FLIGHT_RECORDS,
    IN_FLIGHT_BYTES,
    ASSIGNED_PARTITIONS,
    BATCH_RECORDS,
    INFER_SECONDS,
    INFER_CALLS,
    WAITING_SECONDS,
    VIDEO_SECONDS,
    VIDEO_FRAMES,
    SHADOW,
    SHADOW_WAITING_SECONDS,
    USER_CODE_SECONDS,
    TRANSACTIONS,
    TRANSACTION_RETRIES,
    TRANSACTION_SECONDS,
    TRANSACTION_RECORDS,
    KAFKA_ERRORS,
    DEPENDENCY_UP,
)
"""What docs/metrics.md must list."""

registry = REGISTRY
