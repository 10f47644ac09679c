"""The lowest versions that setup.py allows, as constraints for pip: `python benchmarks/floors.py > floors.txt`."""

import re
from pathlib import Path

SETUP = Path(__file__).parents[1] / "setup.py"
FLOOR = re.compile(r'"([A-Za-z0-9_-]+)(?:\[[a-z,-]+\])?>=([0-9.]+)"')


def floors(text: str) -> list[str]:
    """`name==version` of each requirement with a lower bound in the text of setup.py, in its order."""
    return [f"{name}=={version}" for name, version in FLOOR.findall(text)]


if __name__ == "__main__":
    print("\n".join(floors(SETUP.read_text(encoding="utf-8"))))
