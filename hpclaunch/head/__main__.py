"""``python -m hpclaunch.head``: the head process."""

from __future__ import annotations

import sys

from hpclaunch.head.process import main

sys.exit(main())
