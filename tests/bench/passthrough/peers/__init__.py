"""The programs under comparison. Each runs in its own environment, as ``python -m MODULE``, until SIGTERM."""
