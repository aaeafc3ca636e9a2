"""The trainer: methods and their losses, recipes, the loop, checkpoints, evaluation and the report of a run."""

import os

# ONNX Runtime would report its use to its maker, and keep an identifier in the cache folder; it looks at this when it
# is first imported (Privacy.md in its wheel, "Disabling Telemetry").
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
