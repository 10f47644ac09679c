"""`python -m mtdnn` is `mtdnn`, for where scripts are not on the path."""

import sys

from mtdnn.cli.main import main

sys.exit(main())
