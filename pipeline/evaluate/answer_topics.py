"""Where the answers are that are compared: a run's, live's, or those of models in live's shadow. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from headrace.pipeline.config import Settings
from headrace.pipeline.replay.manifest import Plan
from headrace.pipeline.setup import reply_topics

LIVE = "live"
SHADOW = "shadow"
NONE = "none"
RESERVED = (LIVE, SHADOW, NONE)
"""What ``headrace evaluate`` takes in the place of a run's id, so that no run may have it."""


@dataclass(frozen=True, slots=True)
class AnswerTopics:
    """The topics that hold one side's answers.

    Attributes:
        title: of the side, for people.
        results: all topics that a result may be in which answers somebody; each event has one in one of them.
        dead_letters: None if this side has none.
        own: they hold nothing else. Otherwise other events' answers too, so that they are read from the time on at
            which the first event came.
    """

    title: str
    results: tuple[str, ...]
    dead_letters: str | None
    own: bool


def run_answers(plan: Plan) -> AnswerTopics:
    """Those of a replay."""
    return AnswerTopics(f"run {plan.run}", (plan.results_topic,), plan.dead_letters_topic, own=True)


def live_answers(settings: Settings) -> AnswerTopics:
    """Those that callers had: in every topic that a route or an event may name for replies."""
    return AnswerTopics(LIVE, reply_topics(settings), settings.topics.dead_letters, own=False)


def shadow_answers(settings: Settings) -> AnswerTopics:
    """Those of models in live's shadow: of what they could not answer nothing is kept."""
    return AnswerTopics(SHADOW, (settings.topics.shadow,), None, own=False)
