"""`python -m mtdnn` runs the `mtdnn` command where its script is not on the PATH."""

import sys

from mtdnn.cli.main import main

sys.exit(main())
