"""``python -m decomcam_bench`` is ``decomcam-bench``."""

import sys

from decomcam_bench.cli import main

sys.exit(main())
