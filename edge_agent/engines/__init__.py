"""Engines: what runs a detector on a device. One module a backend; heavy imports stay inside them."""
