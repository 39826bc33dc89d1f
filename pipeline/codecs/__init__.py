"""Per modality: what a part must look like before it goes to a model."""
