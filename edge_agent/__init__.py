"""The agent: masks frames on the device and keeps its engine up to date."""

import os

from maskfleet.quiet import hush

hush(os.environ)
