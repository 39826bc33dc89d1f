"""What the models run. Copied into each model's version folder, which Triton puts on its path.

No import of Triton's utilities here: a model's ``model.py`` speaks Triton, these speak arrays.
"""
