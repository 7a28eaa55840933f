"""``python -m fleet.cli`` is ``fleet``."""

from __future__ import annotations

import sys

from fleet.cli.main import main

sys.exit(main())
