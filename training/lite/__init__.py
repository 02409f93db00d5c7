"""The embedded guard's heads: fitted by `python -m training.lite.fit`, measured by `python -m training.lite.evaluate`."""
