"""A Triton model repository: one folder a model. It stands alone: nothing here imports `schemas` or `stream`."""
