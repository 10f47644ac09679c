"""Runs a module or script in several processes over gloo, as torchrun does, which import everything only once.

`forked.py NUMBER -m MODULE [ARGUMENT …]` or `forked.py NUMBER SCRIPT [ARGUMENT …]`. Ends with 1 if one of them fails.
"""

import os
import runpy
import socket
import sys


def free_port() -> int:
    """A port that nothing listens on."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def run(words: list[str]) -> None:
    """The module or script, as if started with these words."""
    if words[0] == "-m":
        sys.argv = words[1:]
        runpy.run_module(words[1], run_name="__main__", alter_sys=True)
    else:
        sys.argv = words
        runpy.run_path(words[0], run_name="__main__")


def main(number: str, *words: str) -> int:
    import mtdnn.cli.commands
    import mtdnn.runs.train

    assert mtdnn.runs.train and mtdnn.cli.commands  # imported before the processes part
    common = {"WORLD_SIZE": number, "LOCAL_WORLD_SIZE": number, "MASTER_ADDR": "127.0.0.1"}
    common["MASTER_PORT"] = str(free_port())
    children = []
    for rank in range(int(number)):
        child = os.fork()
        if child == 0:
            os.environ.update(common, RANK=str(rank), LOCAL_RANK=str(rank))
            run(list(words))
            return 0
        children.append(child)
    return int(any([os.waitpid(child, 0)[1] for child in children]))


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
