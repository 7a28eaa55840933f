"""Backends: from prepared ONNX to an engine's bytes. One module a runtime."""

import edge_agent.engines  # tells the runtimes that nothing is to be sent, before one of them is imported  # noqa: F401
