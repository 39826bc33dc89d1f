"""Content types without the network: what it is asked, and what is made of its answer."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from headrace.triton_models.serving.magika import Guess, Knowledge, identify

KNOWLEDGE = Knowledge(
    classes=("python", "jpeg", "noise", "markdown"),
    begin_bytes=16,
    end_bytes=16,
    block_bytes=64,
    padding=256,
    fewest_bytes=8,
    threshold=0.5,
    thresholds={"markdown": 0.75},
    overwrite={"noise": "unknown"},
    mime_types={
        **{"python": "text/x-python", "jpeg": "image/jpeg", "markdown": "text/markdown", "txt": "text/plain"},
        **{"unknown": "application/octet-stream", "empty": "inode/x-empty", "noise": "application/octet-stream"},
    },
    texts=frozenset({"python", "markdown", "txt"}),
)


class FakeNetwork:
    """Gives every row the same scores."""

    def __init__(self, *scores: float) -> None:
        self._scores = np.array(scores, np.float32)
        self.asked: list[NDArray[np.int32]] = []

    def __call__(self, features: NDArray[np.int32]) -> NDArray[np.float32]:
        self.asked.append(features)
        return np.tile(self._scores, (len(features), 1))


def guess(network: FakeNetwork, *contents: bytes) -> list[Guess]:
    return identify(contents, network, KNOWLEDGE, 3)


def test_features_are_both_ends_without_white_space() -> None:
    network = FakeNetwork(0.9, 0.1, 0, 0)
    content = b" \n\tbegin" + b"x" * 90 + b"end of it  \n"
    guess(network, content, b"12345678")
    [long, short] = network.asked[0].tolist()
    assert long == [*(b"begin" + b"x" * 11), *(b"x" * 7 + b"end of it")]
    assert short == [*b"12345678", *[256] * 16, *b"12345678"]
    assert network.asked[0].dtype == np.int32


@pytest.mark.parametrize(
    ("content", "label"),
    [
        (b"", "empty"),
        (b"abc", "txt"),
        (b"\xff\xfe", "unknown"),
        (b" " * 50, "txt"),
        (b"abc" + b" " * 50, None),  # Magika strips the beginning's left only
    ],
)
def test_too_few_bytes_are_told_without_the_network(content: bytes, label: str | None) -> None:
    network = FakeNetwork(1, 0, 0, 0)
    [found] = guess(network, content)
    assert found.labels[0] == (label or "python")
    assert bool(network.asked) == (label is None)
    if label:
        assert found == Guess((label,), (1.0,), KNOWLEDGE.mime_types[label])


@pytest.mark.parametrize(
    ("scores", "labels", "mime_type"),
    [
        ((0.6, 0.3, 0.1, 0.0), ("python", "jpeg", "noise"), "text/x-python"),
        ((0.4, 0.3, 0.2, 0.1), ("txt", "python", "jpeg"), "text/plain"),  # not sure, but of a text
        ((0.3, 0.4, 0.2, 0.1), ("unknown", "jpeg", "python"), "application/octet-stream"),
        ((0.2, 0.1, 0.0, 0.7), ("txt", "markdown", "python"), "text/plain"),  # a class with a threshold of its own
        ((0.2, 0.1, 0.0, 0.8), ("markdown", "python", "jpeg"), "text/markdown"),
        ((0.1, 0.1, 0.8, 0.0), ("unknown", "noise", "python"), "application/octet-stream"),
    ],
)
def test_answer_comes_first_then_what_else_it_may_be(
    scores: tuple[float, ...], labels: tuple[str, ...], mime_type: str
) -> None:
    [found] = guess(FakeNetwork(*scores), b"some content")
    assert (found.labels, found.mime_type) == (labels, mime_type)
    assert list(found.scores) == sorted(found.scores, reverse=True)
    assert found.scores[0] == pytest.approx(max(scores))


def test_rows_of_a_batch_keep_their_places() -> None:
    found = guess(FakeNetwork(0.9, 0.1, 0, 0), b"", b"some content", b"abc", b"more content")
    assert [each.labels[0] for each in found] == ["empty", "python", "txt", "python"]
