"""Videos are decoded in child processes with bounded memory and time: a video is a stranger's input to a large library.

In the worker: ``sampler`` (a few ``decoder`` processes, used in turn). In the child: ``child`` (its life and its
limits), ``mp4`` (what the file says of itself), ``frames`` (decoding), ``choosing`` (which frames are kept).
"""
