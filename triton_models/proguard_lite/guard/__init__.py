"""The embedded guard without Triton: rendered messages and image bytes in, an answer in ProGuard's grammar out."""
