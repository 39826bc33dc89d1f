"""The replay demo: a model's next version is tried on history, refused for what it does to one camera, and mended."""
