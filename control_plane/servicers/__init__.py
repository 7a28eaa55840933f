"""Thin servicers: decode, call, encode."""
