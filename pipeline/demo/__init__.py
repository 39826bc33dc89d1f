"""The demo: the main job end to end on a stack of its own, with a worker killed on the way and every event checked."""
