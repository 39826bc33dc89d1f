from __future__ import annotations

import importlib.resources
import io
import wave
from collections import Counter

import cv2
import numpy as np
import pytest

from headrace.pipeline.avro import Contract, schema_json
from headrace.pipeline.demo import assets as bundled
from headrace.pipeline.demo import augment
from headrace.pipeline.demo.assets import Assets
from headrace.pipeline.demo.events import UNKNOWN_SCHEMA_ID, Defect, Kind, PlannedEvent, encode, mangle, plan
from headrace.pipeline.envelope import RequestDecoder
from headrace.pipeline.errors import PoisonError
from headrace.pipeline.records import Modality


@pytest.fixture(scope="module")
def assets() -> Assets:
    return bundled.load()


@pytest.fixture(scope="module")
def events(assets: Assets) -> list[PlannedEvent]:
    return list(plan(480, 7, assets, 1_700_000_000_000))


def decodes(image: bytes) -> bool:
    return cv2.imdecode(np.frombuffer(image, np.uint8), cv2.IMREAD_COLOR) is not None


def test_bundled_data_is_complete(assets: Assets) -> None:
    assert len(assets.photos) >= 20
    assert len(assets.speech) >= 10
    assert sum(len(group) for group in assets.sentences) >= 60
    assert all(len(group) >= 2 for group in assets.sentences)
    assert all(decodes(photo.data) for photo in assets.photos)
    assert {photo.content_type for photo in assets.photos} == {"image/jpeg", "image/png"}


def test_every_bundled_file_has_its_licence_stated(assets: Assets) -> None:
    licences = (importlib.resources.files("headrace.pipeline.demo") / "data" / "LICENSES.md").read_text()
    assert [photo.name for photo in assets.photos if f"| {photo.name} |" not in licences] == []


def test_plan_is_the_same_for_the_same_seed_and_differs_for_another(assets: Assets) -> None:
    first = list(plan(60, 1, assets, 0))
    assert list(plan(60, 1, assets, 0)) == first
    assert [event.origins for event in plan(60, 2, assets, 0)] != [event.origins for event in first]


def test_plan_has_every_kind_and_every_defect_even_when_small(assets: Assets, events: list[PlannedEvent]) -> None:
    small = list(plan(40, 3, assets, 0))
    assert {event.defect for event in small} == {None, *Defect}
    assert {event.kind for event in events} == {*Kind}


def test_plan_spoils_three_percent_at_scattered_places(events: list[PlannedEvent]) -> None:
    bad = [event.index for event in events if event.defect]
    assert len(bad) == 14
    assert Counter(event.defect for event in events if event.defect) == dict.fromkeys(Defect, 2)
    assert bad != sorted(range(bad[0], bad[0] + len(bad)))


def test_request_ids_are_unique(events: list[PlannedEvent]) -> None:
    assert len({event.request.id for event in events}) == len(events)


def test_good_events_carry_parts_that_decode(events: list[PlannedEvent]) -> None:
    for event in events:
        if event.defect:
            continue
        assert event.request.parts
        for part in event.request.parts:
            if part.modality is Modality.IMAGE:
                assert isinstance(part.content, bytes)
                assert decodes(part.content)
            elif part.modality is Modality.AUDIO:
                assert isinstance(part.content, bytes)
                with wave.open(io.BytesIO(part.content)) as clip:
                    assert clip.getnframes() / clip.getframerate() > 1
            else:
                assert isinstance(part.content, str)
                assert part.content


def test_multi_part_events_name_their_parts_apart(events: list[PlannedEvent]) -> None:
    for event in events:
        names = [part.name for part in event.request.parts]
        assert len(set(names)) == len(names)
    assert {len(event.request.parts) for event in events} == {0, 1, 2, 3}


def test_defects_of_the_request_are_in_the_request(events: list[PlannedEvent]) -> None:
    spoiled = {event.defect: event.request for event in events if event.defect}
    image = spoiled[Defect.CORRUPT_JPEG].parts[0].content
    assert isinstance(image, bytes)
    assert not decodes(image)
    clip = spoiled[Defect.TRUNCATED_WAV].parts[0].content
    assert isinstance(clip, bytes)
    assert clip.startswith(b"RIFF")
    with pytest.raises((wave.Error, EOFError)), wave.open(io.BytesIO(clip)):
        pass
    assert spoiled[Defect.EMPTY_PARTS].parts == ()
    assert spoiled[Defect.UNKNOWN_MODEL].model == "no_such_model"


def test_mangle_changes_only_defects_of_the_record() -> None:
    value = b"\x00\x00\x00\x00\x07" + bytes(range(100))
    assert mangle(value, None) == mangle(value, Defect.UNKNOWN_MODEL) == value
    assert mangle(value, Defect.CORRUPT_AVRO) == value[:55]
    assert mangle(value, Defect.EMPTY_VALUE) == b""
    assert mangle(value, Defect.UNKNOWN_SCHEMA) == b"\x00" + UNKNOWN_SCHEMA_ID.to_bytes(4, "big") + value[5:]


def test_augmented_photo_differs_and_keeps_its_format(assets: Assets) -> None:
    rng = np.random.default_rng(0)
    for original in assets.photos:
        varied = augment.photo(rng, original)
        assert varied.data != original.data
        assert varied.content_type == original.content_type
        assert varied.data[:3] == original.data[:3]


def test_augmented_speech_keeps_the_rate_and_adds_silence(assets: Assets) -> None:
    clip = assets.speech[0]
    with wave.open(io.BytesIO(augment.speech(np.random.default_rng(0), clip))) as varied:
        assert varied.getframerate() == clip.rate_hz
        assert varied.getnframes() > len(clip.samples) + 0.4 * clip.rate_hz


def test_encoded_events_read_back_as_planned_and_bad_ones_fail_for_their_reason(events: list[PlannedEvent]) -> None:
    decoder = RequestDecoder()
    decoder.add_schema(7, schema_json(Contract.REQUEST))
    decoder.add_schema(UNKNOWN_SCHEMA_ID, None)
    of_the_record = {Defect.CORRUPT_AVRO, Defect.UNKNOWN_SCHEMA, Defect.EMPTY_VALUE, Defect.EMPTY_PARTS}
    for event in events:
        value = encode(event, 7)
        if event.defect not in of_the_record:
            assert decoder.decode(value) == event.request
            continue
        with pytest.raises(PoisonError) as caught:
            decoder.decode(value)
        assert caught.value.code in event.expected.codes
