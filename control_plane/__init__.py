"""The control plane: devices, models, releases, rollouts."""

import os

from maskfleet.quiet import hush

hush(os.environ)
