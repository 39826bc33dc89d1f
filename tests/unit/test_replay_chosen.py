from __future__ import annotations

import re
import uuid

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.pipeline.errors import ConfigError
from headrace.pipeline.records import Headers, InferenceRequest, Modality, Part, Provenance, SourceRecord
from headrace.pipeline.replay.chosen import NAMES, Choice, Chosen, chosen, sampled
from tests.unit.fakes import request, text_part

PHOTO = Part("photo", Modality.IMAGE, "image/jpeg", b"jpeg")
EVENT = request(text_part(), PHOTO, type="com.acme.note", source="/desk/7")
HEADERS = (("tenant", b"other"), ("tenant", b"acme-eu"), ("tier", b"gold\xff"), ("none", None), ("empty", b""))
IDS = [str(uuid.uuid5(uuid.NAMESPACE_URL, str(number))) for number in range(4_000)]
SHARES = st.floats(0, 1, exclude_min=True)


def record(key: bytes | None = b"cam-7\xff", headers: Headers = HEADERS) -> SourceRecord:
    return SourceRecord(Provenance("requests", 0, 7, 0), key, b"value", headers)


def takes(options: list[str], source: SourceRecord, event: InferenceRequest | None = EVENT) -> bool:
    return Choice(chosen(options), lambda _: event).takes(source)


def not_asked(source: SourceRecord) -> InferenceRequest | None:
    raise AssertionError("content does not matter")


# --- what --filter says ---------------------------------------------------------------------------------------------


def test_options_of_all_names_are_understood() -> None:
    options = [
        "modality=image",
        "modality=TEXT",
        "type=com.acme.*",
        "source=/desk/*",
        "source=/a=b",
        "key=cam-?",
        "header.tenant=acme",
        "header.x.y=a=b",
        "header.tenant=other",
        "sample=5%",
    ]
    assert chosen(options) == Chosen(
        modalities=frozenset({Modality.IMAGE, Modality.TEXT}),
        types=("com.acme.*",),
        sources=("/desk/*", "/a=b"),
        keys=("cam-?",),
        headers=(("tenant", "acme"), ("x.y", "a=b"), ("tenant", "other")),
        sample=0.05,
    )


@pytest.mark.parametrize(
    ("value", "share"), [("0.05", 0.05), ("5%", 0.05), ("0.5%", 0.005), ("1", 1.0), ("100%", 1.0), ("1e-3", 0.001)]
)
def test_sample_is_a_share_or_a_percentage(value: str, share: float) -> None:
    assert chosen([f"sample={value}"]).sample == pytest.approx(share)


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("", "--filter : write NAME=VALUE; names: "),
        ("modality", "--filter modality: write NAME=VALUE; names: "),
        ("modality=", "--filter modality=: write NAME=VALUE; names: "),
        ("model=echo", "--filter model: there is no such name; names: "),
        ("=x", "--filter : there is no such name; names: "),
        ("header.=x", "--filter header.: there is no such name; names: "),
        ("Key=x", "--filter Key: there is no such name; names: "),
    ],
)
def test_option_of_no_known_name_is_refused_with_the_names(option: str, message: str) -> None:
    with pytest.raises(ConfigError, match=f"^{re.escape(message + ', '.join(NAMES))}$"):
        chosen([option])


def test_unknown_modality_is_refused_with_those_there_are() -> None:
    message = "--filter modality=smell: it is one of TEXT, IMAGE, AUDIO, VIDEO, TENSOR"
    with pytest.raises(ConfigError, match=f"^{message}$"):
        chosen(["modality=smell"])


@pytest.mark.parametrize("value", ["0", "0%", "-0.1", "1.01", "101%", "nan", "inf", "some", "%", "5%%"])
def test_sample_that_is_no_share_is_refused(value: str) -> None:
    with pytest.raises(ConfigError, match=rf"^--filter sample={re.escape(value)}: give a share above 0, such as"):
        chosen([f"sample={value}"])


# --- which records it takes -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ([], True),
        (["modality=image"], True),
        (["modality=audio"], False),
        (["modality=audio", "modality=text"], True),
        (["type=com.acme.*"], True),
        (["type=com.acme"], False),
        (["type=COM.ACME.NOTE"], False),
        (["type=com.acme", "type=*.note"], True),
        (["source=/desk/?"], True),
        (["source=/desk"], False),
        (["key=cam-?\\xff"], True),
        (["key=cam-7\\xff"], True),
        (["key=cam-7"], False),
        (["key=cam-8*", "key=cam-7*"], True),
        (["header.tenant=acme-*"], True),
        (["header.tenant=other"], False),
        (["header.tenant=other", "header.tenant=acme-eu"], True),
        (["header.Tenant=acme-eu"], False),
        (["header.tier=gold\N{REPLACEMENT CHARACTER}"], True),
        (["header.none=*"], False),
        (["header.empty=*"], True),
        (["header.missing=*"], False),
        (["header.tenant=acme-*", "header.tier=gold*"], True),
        (["header.tenant=acme-*", "header.tier=silver"], False),
        (["modality=image", "type=*", "source=*", "key=*", "header.tenant=*", "sample=100%"], True),
        (["modality=audio", "type=*", "source=*", "key=*", "header.tenant=*"], False),
        (["modality=image", "type=no", "source=*", "key=*", "header.tenant=*"], False),
        (["modality=image", "type=*", "source=no", "key=*", "header.tenant=*"], False),
        (["modality=image", "type=*", "source=*", "key=no", "header.tenant=*"], False),
        (["modality=image", "type=*", "source=*", "key=*", "header.tenant=no"], False),
    ],
)
def test_record_must_match_every_name_in_one_of_its_values(options: list[str], expected: bool) -> None:
    assert takes(options, record()) is expected


def test_record_without_a_key_matches_no_key() -> None:
    assert not takes(["key=*"], record(key=None))
    assert takes(["type=*"], record(key=None))


@pytest.mark.parametrize("option", ["modality=text", "type=*", "source=*", "sample=99%"])
def test_record_that_cannot_be_decoded_is_left_out_if_content_matters(option: str) -> None:
    assert not takes([option], record(), None)


@pytest.mark.parametrize("options", [[], ["sample=1"], ["key=cam-*"], ["key=no"], ["header.tenant=*"]])
def test_nothing_is_decoded_if_content_does_not_matter(options: list[str]) -> None:
    choice = Choice(chosen(options), not_asked)
    assert choice.takes(record()) is (options != ["key=no"])


@pytest.mark.parametrize("option", ["key=no", "header.tenant=no"])
def test_nothing_is_decoded_of_a_record_that_is_left_out_already(option: str) -> None:
    assert not Choice(chosen([option, "type=*"]), not_asked).takes(record())


@pytest.mark.parametrize(("options", "expected"), [([], True), (["sample=100%"], True), (["key=*"], False)])
def test_choice_knows_whether_it_takes_everything(options: list[str], expected: bool) -> None:
    assert Choice(chosen(options), not_asked).everything is expected


# --- the sample -----------------------------------------------------------------------------------------------------


def test_sample_is_the_same_in_every_release() -> None:
    """Runs of different releases are compared: these are the events of a first release."""
    assert [number for number, each in enumerate(IDS[:60]) if sampled(each, 0.1)] == [15, 19, 26, 30, 33, 40, 47]


def test_sample_does_not_depend_on_how_an_id_is_written() -> None:
    assert [sampled(each.upper(), 0.5) for each in IDS[:50]] == [sampled(each, 0.5) for each in IDS[:50]]


@pytest.mark.parametrize("share", [0.01, 0.05, 0.1, 0.5, 0.9])
def test_sample_has_about_its_share(share: float) -> None:
    """Four standard deviations of a fair draw at most."""
    spread = (share * (1 - share) / len(IDS)) ** 0.5
    assert sum(sampled(each, share) for each in IDS) / len(IDS) == pytest.approx(share, abs=4 * spread)


def test_sample_of_one_is_everything() -> None:
    assert all(sampled(each, 1.0) for each in IDS)


def test_larger_sample_holds_the_smaller_one() -> None:
    small, large = ({each for each in IDS if sampled(each, share)} for share in (0.05, 0.1))
    assert small < large


@settings(deadline=None)  # a busy machine
@given(st.uuids().map(str), SHARES, SHARES)
def test_any_larger_sample_holds_any_smaller_one(event_id: str, one: float, other: float) -> None:
    smaller, larger = sorted((one, other))
    assert sampled(event_id, larger) or not sampled(event_id, smaller)


def test_choice_takes_the_sample() -> None:
    taken = [each for each in IDS[:200] if takes(["sample=10%"], record(), request(id=each))]
    assert taken == [each for each in IDS[:200] if sampled(each, 0.1)]
