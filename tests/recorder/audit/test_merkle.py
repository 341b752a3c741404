"""The tree against the definitions of RFC 6962, written naively, and against its published vectors."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recorder.audit import merkle
from recorder.audit.merkle import Coordinate, GrowingTree

# Certificate Transparency's own test vectors (google/certificate-transparency, merkle_tree_test.cc).
INPUTS = ["", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f"]
ROOTS = [
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
]


def naive_root(entries: list[bytes]) -> bytes:
    """MTH of RFC 6962 section 2.1, word by word."""
    if not entries:
        return hashlib.sha256().digest()
    if len(entries) == 1:
        return hashlib.sha256(b"\x00" + entries[0]).digest()
    k = naive_split(len(entries))
    return hashlib.sha256(b"\x01" + naive_root(entries[:k]) + naive_root(entries[k:])).digest()


def naive_split(n: int) -> int:
    k = 1
    while k * 2 < n:
        k *= 2
    return k


def naive_path(m: int, entries: list[bytes]) -> list[bytes]:
    """PATH of section 2.1.1."""
    if len(entries) == 1:
        return []
    k = naive_split(len(entries))
    if m < k:
        return [*naive_path(m, entries[:k]), naive_root(entries[k:])]
    return [*naive_path(m - k, entries[k:]), naive_root(entries[:k])]


def naive_proof(m: int, entries: list[bytes], whole: bool = True) -> list[bytes]:
    """SUBPROOF of section 2.1.2."""
    n = len(entries)
    if m == n:
        return [] if whole else [naive_root(entries)]
    k = naive_split(n)
    if m <= k:
        return [*naive_proof(m, entries[:k], whole), naive_root(entries[k:])]
    return [*naive_proof(m - k, entries[k:], False), naive_root(entries[:k])]


def grow(entries: list[bytes]) -> tuple[GrowingTree, dict[Coordinate, bytes]]:
    tree = GrowingTree()
    nodes: dict[Coordinate, bytes] = {}
    for entry in entries:
        nodes.update(tree.append(merkle.leaf_hash(entry)))
    return tree, nodes


def entries_of(size: int) -> list[bytes]:
    return [b"entry %d" % n for n in range(size)]


sizes = st.integers(1, 150)


@pytest.mark.parametrize("size", range(1, 9))
def test_published_roots(size: int) -> None:
    tree, _ = grow([bytes.fromhex(i) for i in INPUTS[:size]])
    assert tree.root().hex() == ROOTS[size - 1]


def test_the_empty_tree() -> None:
    assert GrowingTree().root() == merkle.EMPTY_ROOT == naive_root([])


@given(st.lists(st.binary(max_size=20), max_size=70), st.data())
def test_growing_in_two_goes_gives_the_root_by_definition(entries: list[bytes], data: st.DataObject) -> None:
    stop = data.draw(st.integers(0, len(entries)))
    _, nodes = grow(entries[:stop])
    resumed = GrowingTree(stop, {at: nodes[at] for at in merkle.cover(0, stop)})
    for entry in entries[stop:]:
        nodes.update(resumed.append(merkle.leaf_hash(entry)))
    assert resumed.size == len(entries)
    assert resumed.root() == naive_root(entries)
    for size in range(len(entries) + 1):  # every earlier root stays computable
        assert merkle.range_hash(0, size, nodes) == naive_root(entries[:size])


@given(sizes, st.data())
def test_inclusion_by_definition_and_its_verification(size: int, data: st.DataObject) -> None:
    entries = entries_of(size)
    index = data.draw(st.integers(0, size - 1))
    tree, nodes = grow(entries)
    path = [merkle.range_hash(a, b, nodes) for a, b in merkle.inclusion_ranges(index, size)]
    assert path == naive_path(index, entries)
    assert merkle.needed(merkle.inclusion_ranges(index, size)) <= set(nodes)
    leaf, root = merkle.leaf_hash(entries[index]), tree.root()
    assert merkle.verify_inclusion(leaf, index, size, path, root)
    # Nothing else passes.
    assert not merkle.verify_inclusion(merkle.leaf_hash(b"other"), index, size, path, root)
    assert not merkle.verify_inclusion(leaf, index, size, [*path, root], root)
    assert not merkle.verify_inclusion(leaf, index, size, path, bytes(32))
    assert not merkle.verify_inclusion(leaf, size, size, path, root)
    assert not merkle.verify_inclusion(leaf, -1, size, path, root)
    other = data.draw(st.integers(0, size - 1))
    assert merkle.verify_inclusion(leaf, other, size, path, root) is (other == index)
    if path:
        assert not merkle.verify_inclusion(leaf, index, size, path[:-1], root)
        spot = data.draw(st.integers(0, len(path) - 1))
        broken = [*path[:spot], bytes(32), *path[spot + 1 :]]
        assert not merkle.verify_inclusion(leaf, index, size, broken, root)


@given(sizes, st.data())
def test_consistency_by_definition_and_its_verification(size: int, data: st.DataObject) -> None:
    entries = entries_of(size)
    first = data.draw(st.integers(1, size))
    tree, nodes = grow(entries)
    proof = [merkle.range_hash(a, b, nodes) for a, b in merkle.consistency_ranges(first, size)]
    assert proof == naive_proof(first, entries)
    old, new = naive_root(entries[:first]), tree.root()
    assert merkle.verify_consistency(first, old, size, new, proof)
    assert not merkle.verify_consistency(first, bytes(32), size, new, proof)
    assert not merkle.verify_consistency(first, old, size, bytes(32), proof)
    assert not merkle.verify_consistency(first, old, size, new, [*proof, old])
    if proof:
        assert not merkle.verify_consistency(first, old, size, new, proof[:-1])
        assert not merkle.verify_consistency(first, old, size, new, proof[1:])
    if 1 < first < size:
        assert not merkle.verify_consistency(first - 1, old, size, new, proof)


@settings(max_examples=30)
@given(st.integers(2, 60), st.data())
def test_a_rewritten_history_is_never_consistent(size: int, data: st.DataObject) -> None:
    first = data.draw(st.integers(1, size - 1))
    entries = entries_of(size)
    rewritten = list(entries)
    rewritten[data.draw(st.integers(0, first - 1))] = b"something else"
    _, nodes = grow(rewritten)
    proof = [merkle.range_hash(a, b, nodes) for a, b in merkle.consistency_ranges(first, size)]
    old, new = naive_root(entries[:first]), naive_root(rewritten)
    assert not merkle.verify_consistency(first, old, size, new, proof)


def test_consistency_at_the_edges() -> None:
    root = naive_root([b"a"])
    assert merkle.verify_consistency(0, merkle.EMPTY_ROOT, 1, root, [])
    assert not merkle.verify_consistency(0, bytes(32), 1, root, [])
    assert not merkle.verify_consistency(0, merkle.EMPTY_ROOT, 1, root, [root])
    assert not merkle.verify_consistency(2, root, 1, root, [])
    assert not merkle.verify_consistency(1, root, 3, root, [])
    assert merkle.consistency_ranges(0, 5) == []
    for first, second in ((-1, 3), (4, 3)):
        with pytest.raises(ValueError, match="larger"):
            merkle.consistency_ranges(first, second)
    for index, size in ((0, 0), (3, 3), (-1, 3)):
        with pytest.raises(ValueError, match="no such leaf"):
            merkle.inclusion_ranges(index, size)
    with pytest.raises(ValueError, match="does not begin"):
        merkle.cover(1, 3)


def test_a_tree_is_not_resumed_without_its_frontier() -> None:
    with pytest.raises(KeyError):
        GrowingTree(3, {Coordinate(1, 0): bytes(32)})
