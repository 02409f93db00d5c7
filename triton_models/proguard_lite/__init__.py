"""`proguard_lite`: the embedded guard, a Triton Python-backend model that runs on a CPU. Its card is README.md."""
