"""Backends: from prepared ONNX to an engine's bytes. One module a runtime."""
