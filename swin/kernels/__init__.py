"""Shifted-window attention behind one function."""

from swin.kernels.attention import BACKENDS, choose_backend, window_attention

__all__ = ["BACKENDS", "choose_backend", "window_attention"]
