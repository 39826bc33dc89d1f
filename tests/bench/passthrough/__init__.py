"""Pass-through exactly-once: ours and its peers, each in a process of its own, on one broker, with one codec."""
