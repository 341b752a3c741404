"""The Merkle tree of RFC 6962 section 2: hashes, growing, proofs of inclusion and consistency, verification.

Pure. A tree over n leaves is stored as the hashes of its *complete* subtrees: the node at (level, position)
covers the leaves [position * 2**level, (position + 1) * 2**level). Complete subtrees never change once
written, so the tree only ever grows, and every root and proof of every earlier size can still be computed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Final, NamedTuple

HASH_SIZE: Final = 32
EMPTY_ROOT: Final = hashlib.sha256(b"").digest()


class Coordinate(NamedTuple):
    """Where a complete subtree stands."""

    level: int
    position: int


class Node(NamedTuple):
    """A complete subtree and its hash."""

    at: Coordinate
    hash: bytes


def leaf_hash(data: bytes) -> bytes:
    """Hash of an entry: SHA-256(0x00 || entry)."""
    return hashlib.sha256(b"\x00" + data).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """Hash of an inner node: SHA-256(0x01 || left || right)."""
    return hashlib.sha256(b"\x01" + left + right).digest()


def cover(start: int, end: int) -> list[Coordinate]:
    """The complete subtrees that make up the leaves [start, end), from left to right.

    ``start`` must be a multiple of the largest power of two in the range, as for every subtree of RFC 6962.
    """
    found: list[Coordinate] = []
    while start < end:
        level = (end - start).bit_length() - 1
        if start & ((1 << level) - 1):
            raise ValueError("the range does not begin where a subtree can")
        found.append(Coordinate(level, start >> level))
        start += 1 << level
    return found


def range_hash(start: int, end: int, nodes: Mapping[Coordinate, bytes]) -> bytes:
    """Hash of the subtree over the leaves [start, end).

    Raises:
        KeyError: a node of :func:`cover` is not in ``nodes``.
    """
    hashes = [nodes[at] for at in cover(start, end)]
    if not hashes:
        return EMPTY_ROOT
    root = hashes.pop()
    while hashes:
        root = node_hash(hashes.pop(), root)
    return root


class GrowingTree:
    """A tree of a size, known by its frontier alone; appending tells which nodes became complete."""

    def __init__(self, size: int = 0, nodes: Mapping[Coordinate, bytes] | None = None) -> None:
        """Start from a size.

        Args:
            size: Number of leaves there are.
            nodes: At least the hashes of ``cover(0, size)``.

        Raises:
            KeyError: one of them is missing.
        """
        self.size = size
        self._frontier = [Node(at, (nodes or {})[at]) for at in cover(0, size)]

    def append(self, leaf: bytes) -> list[Node]:
        """Add the hash of a leaf; return the nodes that it completes, the leaf first."""
        node = Node(Coordinate(0, self.size), leaf)
        completed = [node]
        while self._frontier and self._frontier[-1].at.level == node.at.level:
            left = self._frontier.pop()
            at = Coordinate(node.at.level + 1, node.at.position >> 1)
            node = Node(at, node_hash(left.hash, node.hash))
            completed.append(node)
        self._frontier.append(node)
        self.size += 1
        return completed

    def root(self) -> bytes:
        """Root hash over all leaves so far."""
        return range_hash(0, self.size, dict(self._frontier))


def inclusion_ranges(index: int, size: int) -> list[tuple[int, int]]:
    """The ranges whose hashes make the audit path PATH(index, D[size]), from the leaf to the root.

    Raises:
        ValueError: the tree has no such leaf.
    """
    if not 0 <= index < size:
        raise ValueError("the tree has no such leaf")
    start, end = 0, size
    ranges: list[tuple[int, int]] = []
    while end - start > 1:
        middle = start + _split(end - start)
        if index < middle:
            ranges.append((middle, end))
            end = middle
        else:
            ranges.append((start, middle))
            start = middle
    return ranges[::-1]


def consistency_ranges(first: int, second: int) -> list[tuple[int, int]]:
    """The ranges whose hashes make PROOF(first, D[second]).

    Raises:
        ValueError: not ``0 <= first <= second``.
    """
    if not 0 <= first <= second:
        raise ValueError("a tree is consistent with larger ones only")
    if first in (0, second):
        return []
    start, end, whole = 0, second, True
    ranges: list[tuple[int, int]] = []
    while first != end:
        middle = start + _split(end - start)
        if first <= middle:
            ranges.append((middle, end))
            end = middle
        else:
            ranges.append((start, middle))
            start, whole = middle, False
    if not whole:
        ranges.append((start, end))
    return ranges[::-1]


def needed(ranges: Iterable[tuple[int, int]]) -> set[Coordinate]:
    """The stored nodes from which the hashes of some ranges are computed."""
    return {at for start, end in ranges for at in cover(start, end)}


def verify_inclusion(leaf: bytes, index: int, size: int, path: Sequence[bytes], root: bytes) -> bool:
    """Whether a leaf stands at an index of the tree of this size and root (RFC 9162 section 2.1.3.2)."""
    if not 0 <= index < size:
        return False
    position, last, found = index, size - 1, leaf
    for step in path:
        if last == 0:
            return False
        if position & 1 or position == last:
            found = node_hash(step, found)
            while not position & 1 and position != 0:
                position >>= 1
                last >>= 1
        else:
            found = node_hash(found, step)
        position >>= 1
        last >>= 1
    return last == 0 and found == root


def verify_consistency(
    first: int, first_root: bytes, second: int, second_root: bytes, proof: Sequence[bytes]
) -> bool:
    """Whether the larger tree begins with the smaller one (RFC 9162 section 2.1.4.2)."""
    if not 0 <= first <= second:
        return False
    if first == second:
        return not proof and first_root == second_root
    if first == 0:
        return not proof and first_root == EMPTY_ROOT
    path = list(proof)
    if first & (first - 1) == 0:
        path.insert(0, first_root)
    if not path:
        return False
    position, last = first - 1, second - 1
    while position & 1:
        position >>= 1
        last >>= 1
    old = new = path[0]
    for step in path[1:]:
        if last == 0:
            return False
        if position & 1 or position == last:
            old, new = node_hash(step, old), node_hash(step, new)
            while not position & 1 and position != 0:
                position >>= 1
                last >>= 1
        else:
            new = node_hash(new, step)
        position >>= 1
        last >>= 1
    return last == 0 and old == first_root and new == second_root


def _split(size: int) -> int:
    """Largest power of two below a size of at least two."""
    return 1 << ((size - 1).bit_length() - 1)
