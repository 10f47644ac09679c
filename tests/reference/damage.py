"""Damaged content, drawn from a generator: what half a write, a bad disk, another program or a stranger leaves.

Every function takes the generator and the bytes of a valid file, and returns bytes; the same draws give the same bytes.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from typing import Any

import yaml

Damage = Callable[[random.Random, bytes], bytes]

NUMBERS = [0, -1, 0.5, 10**9, -(2**63) - 1, 10**40, 10**400, 1e308, 1e-320, float("nan"), float("inf")]
TEXTS = ["", " ", "\t", "a\nb", "\u2028", "\ufeff", "é", "x" * 5000, "../../x", "/dev/zero", "..", "~", "null", "1e-5"]
TEXTS += ["a.b", "os.system", "_x", "$^$", "%s", "{0}", "${x}", "<script>", "\x1b[31m", "\ud800", "12:30:45", "0x10"]
VALUES: list[Any] = [
    *NUMBERS,
    *TEXTS,
    None,
    True,
    False,
    [],
    {},
    [[]],
    [None],
    [1, "a"],
    {"a": 1},
    {"": []},
    ["a"] * 30,
]
SNIPPETS = [b"\0", b"\xff\xfe", b"\xed\xa0\x80", b"\xef\xbb\xbf", b"\r", b"\n\n", b"\t", b'"', b"[" * 200, b"{", b"NaN"]
SNIPPETS += [b"1" * 5000, b"1e999", b"!!python/name:os.system ", b"&a [*a]", b"*a", b"<<: 3\n", b"--- \n", b"\\ud800"]
WHOLE = [b"", b"\n", b"null", b"[]", b"{}", b"1", b'"x"', b"\xff" * 40, b"[" * 100_000, b'{"a":' * 3000, b"9" * 9000]
WHOLE += [b"\0" * 300, b"x\n" * 2000, b"- " * 1500, b"a: &a [1, 1]\n" + b"".join(
    b"%c: &%c [%s]\n" % (98 + level, 98 + level, b",".join([b"*%c" % (97 + level)] * 9)) for level in range(9)
)]  # fmt: skip


def cut(rng: random.Random, content: bytes) -> bytes:
    """Its beginning: the writer was killed, or the disk was full."""
    return content[: rng.randrange(len(content) + 1)]


def flipped(rng: random.Random, content: bytes) -> bytes:
    """One to eight bits flipped."""
    found = bytearray(content)
    for _ in range(rng.choice([1, 1, 8]) if found else 0):
        found[rng.randrange(len(found))] ^= 1 << rng.randrange(8)
    return bytes(found)


def odd_bytes(rng: random.Random, content: bytes) -> bytes:
    """One to three pieces that no such file has, put in anywhere."""
    for _ in range(rng.choice([1, 1, 3])):
        spot = rng.randrange(len(content) + 1)
        content = content[:spot] + rng.choice(SNIPPETS) + content[spot:]
    return content


def lines_moved(rng: random.Random, content: bytes) -> bytes:
    """A line removed, doubled, or put elsewhere."""
    lines = content.split(b"\n")
    line = lines.pop(rng.randrange(len(lines)))
    for _ in range(rng.randrange(3)):
        lines.insert(rng.randrange(len(lines) + 1), line)
    return b"\n".join(lines)


def other_file(rng: random.Random, content: bytes) -> bytes:
    """Another file altogether: empty, zeros, nested 100,000 deep, a number of 9,000 digits, aliases of aliases, …"""
    return rng.choice(WHOLE)


def cells_changed(rng: random.Random, content: bytes) -> bytes:
    """One cell of a table with tabs: another value, removed, or twice."""
    lines = [line.split("\t") for line in content.decode("utf-8", "replace").split("\n")]
    row = rng.choice(lines)
    spot = rng.randrange(len(row))
    row[spot : spot + 1] = rng.choice([[], [row[spot]] * 2, [str(rng.choice(VALUES[:-1]))[:5000]]])
    return "\n".join("\t".join(row) for row in lines).encode("utf-8", "replace")


def json_changed(rng: random.Random, content: bytes) -> bytes:
    """One or two values of a JSON file, or of a line of JSON lines, of another type, removed, or under another key."""
    lines = content.decode().split("\n") if content.count(b"\n{") else [content.decode()]
    spot = rng.randrange(len(lines))
    if not lines[spot].strip():
        return content
    value = tree_changed(rng, json.loads(lines[spot]))
    lines[spot] = json.dumps(value)
    return "\n".join(lines).encode()


def yaml_changed(rng: random.Random, content: bytes) -> bytes:
    """As `json_changed`, of a YAML file."""
    value = tree_changed(rng, yaml.safe_load(content))
    return yaml.safe_dump(value, sort_keys=False, allow_unicode=rng.random() < 0.5).encode("utf-8", "replace")


def tree_changed(rng: random.Random, tree: Any) -> Any:
    """A copy of lists and mappings with one or two changes at any level."""
    root = [json.loads(json.dumps(tree, default=str))]
    for _ in range(rng.choice([1, 1, 2])):
        holder, key = rng.choice(_places(root))
        how = rng.randrange(4)
        if how == 0 and isinstance(holder, dict):
            holder[rng.choice([*TEXTS, *holder])] = holder.pop(key)
        elif how == 1 and holder is not root:
            del holder[key]
        elif how == 2:
            for _ in range(rng.choice([1, 3, 100])):
                holder[key] = [holder[key]] if rng.random() < 0.5 else {"a": holder[key]}
        else:
            holder[key] = rng.choice(VALUES)
    return root[0]


def _places(tree: Any) -> list[tuple[Any, Any]]:
    """(list or mapping, index or key) of every value within."""
    items = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    return [place for key, inner in items for place in ((tree, key), *_places(inner))]


ANY: list[Damage] = [cut, flipped, odd_bytes, lines_moved, other_file]
SHAPED: dict[str, Damage] = {".json": json_changed, ".jsonl": json_changed, ".yml": yaml_changed, ".tsv": cells_changed}


def damaged(rng: random.Random, content: bytes, suffix: str) -> bytes:
    """The content with a damage that this kind of file may have; half of them keep its form where it has one."""
    shaped = SHAPED.get(suffix)
    if shaped is not None and content and rng.random() < 0.5:
        return shaped(rng, content)
    return rng.choice(ANY)(rng, content)
