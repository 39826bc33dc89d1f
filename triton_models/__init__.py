"""Triton's model repository: templates, what the models run (``serving``), and how both become ready to serve.

Runs in the interpreter environment of Triton's python backend (``requirements.txt``), where headrace is not
installed: imports inside this package are relative, and it imports nothing of headrace.
"""
