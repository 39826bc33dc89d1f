"""The resilience demo: a model that fails for a while, a breaker that opens and closes, dead letters redriven."""
