"""The versions of the demo's image model: the bundled one, one that sees more and forgets something, and that mended.

All run the same network. They differ in how they make its pixels: in a few lines of ``serving/image.py``, as models in
use often do.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from headrace.pipeline.errors import StackError

MODEL = "photo_labels"
BUNDLED = "image_jpeg"
"""The model that the first version is a copy of."""
_PIXELS = Path("serving", "image.py")
_CONFIG = "config.pbtxt"
_ALL_VERSIONS = "version_policy: { all { } }\n"
"""By default Triton serves the newest only; a replay needs it beside the one that answers live."""


@dataclass(frozen=True, slots=True)
class Edit:
    """One change of the code: ``new`` in the place of ``old``, which stands there once."""

    old: str
    new: str


_WHOLE_SQUARE = Edit("_CROP = SIDE_PIXELS / (SIDE_PIXELS + 32)", "_CROP = 1.0")
"""What is at the edge counts: a uniform needs its cap."""
_AVERAGED = Edit("cv2.INTER_AREA if side > 2 * SIDE_PIXELS", "cv2.INTER_AREA if side > SIDE_PIXELS")
"""No false patterns in whatever is made smaller."""
_AS_STORED = Edit("cv2.IMREAD_COLOR)", "cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)")
"""As most decoders do by themselves: they hand out pixels as they are stored, whatever EXIF says is up."""

EDITS: dict[int, tuple[Edit, ...]] = {
    1: (),
    2: (_WHOLE_SQUARE, _AVERAGED, _AS_STORED),
    3: (_WHOLE_SQUARE, _AVERAGED),
}
"""Version → what it changes of the bundled model."""


def write_model(bundled: Path, models: Path) -> None:
    """The model with its first version, in a repository of its own.

    Args:
        bundled: the repository of the bundled models.
        models: the user's own repository, where the model's folder is made.
    """
    folder = models / MODEL
    folder.mkdir(parents=True)
    config = (bundled / BUNDLED / _CONFIG).read_text("utf-8")
    (folder / _CONFIG).write_text(_edited(config, Edit(f'name: "{BUNDLED}"\n', f'name: "{MODEL}"\n{_ALL_VERSIONS}')))
    write_version(bundled, folder / "1", 1)


def write_version(bundled: Path, folder: Path, version: int) -> None:
    """One version's folder, which must not be there yet.

    Raises:
        StackError: the bundled model's code is not the one that the version changes.
    """
    shutil.copytree(bundled / BUNDLED / "1", folder, ignore=shutil.ignore_patterns("__pycache__"))
    code = folder / _PIXELS
    text = code.read_text("utf-8")
    for edit in EDITS[version]:
        text = _edited(text, edit)
    code.write_text(text, "utf-8")


def _edited(text: str, edit: Edit) -> str:
    if text.count(edit.old) != 1:
        raise StackError(f"the bundled model {BUNDLED} has not one {edit.old!r}: the demo's versions do not fit it")
    return text.replace(edit.old, edit.new)
