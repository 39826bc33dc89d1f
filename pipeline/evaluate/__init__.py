"""Two sets of answers to the same records compared: measures, and whether they are good enough."""
