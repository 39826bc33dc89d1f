"""headrace with a model, beside Triton's own ceiling, and beside programs that call Triton for each record."""
