"""`python -m mtdnn` runs the `mtdnn` command where its script is not on the PATH.

Nothing is imported from the current folder, which may not be trusted: `python -m` puts it first in `sys.path`, where
its files could replace modules of Python or of packages. It is kept if mtdnn itself is in it, as in a checkout that is
not installed. PYTHONPATH=. adds it, as for `mtdnn`.
"""

import os
import sys

if not sys.flags.safe_path and os.path.abspath(__file__) != os.path.join(sys.path[0], "mtdnn", "__main__.py"):
    del sys.path[0]

from mtdnn.cli.main import main

sys.exit(main())
