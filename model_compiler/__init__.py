"""The compiler: a model version becomes a verified engine for a target."""

import os

from maskfleet.quiet import hush

hush(os.environ)
