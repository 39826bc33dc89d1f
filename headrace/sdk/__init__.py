"""The Python SDK: what ``from headrace import …`` finds. See docs/sdk.md."""
