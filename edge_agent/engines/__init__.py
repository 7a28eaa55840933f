"""Engines: what runs a detector on a device. One module a backend; heavy imports stay inside them.

ONNX Runtime from 1.29 on tells its maker which models are run, on every system, from an identifier that it keeps in the
user's home. Nothing of the sort leaves a device that masks faces, so it is told not to before it is first imported.
"""

import os

os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # read once, by its library, while it is loaded
