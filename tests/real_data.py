"""Where the real inputs lie that some tests read; they skip where a folder is absent."""

from __future__ import annotations

import os
from pathlib import Path

_CHECKOUT = Path(__file__).resolve().parents[1]
REAL_DATA = Path(os.environ.get("EGOVL_TEST_DATA", _CHECKOUT.parent / "shared" / "data"))
EK100 = REAL_DATA / "ek100"
