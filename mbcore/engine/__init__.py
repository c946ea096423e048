"""Compiled loops that own their file descriptors: bytes in and out on time, without the GIL. Opens and configures nothing."""
