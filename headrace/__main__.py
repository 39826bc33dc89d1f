"""``python -m headrace`` is the command ``headrace``."""

from headrace.pipeline.cli import main

main()
