"""``python -m lens``: see :mod:`lens.cli`."""

import sys

from lens.cli import main

sys.exit(main())
