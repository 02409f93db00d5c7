"""What the real guard is made of; `1/model.py` is only its door to Triton."""
