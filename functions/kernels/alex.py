"""An updatable learned index: keys to numbers, kept in order under inserts.

Source: Ding et al., "ALEX: An Updatable Adaptive Learned Index", SIGMOD 2020: gapped arrays with a linear model each
(section 3.1), model-based inserts and exponential search (4.1, 4.2), expansion and splits by density (4.3).

What differs. Inner nodes are gapped arrays too, over their children's first keys, where ALEX computes the child without
a search: so the height is logarithmic whatever the keys are, and no cost model is needed. A key that is greater than
all others begins a leaf of its own once the last leaf is full, so keys in growing order fill their leaves. Equal keys
are one key with a chain of payloads, as equal keys would defeat any model.

A gap holds the key of the nearest key to its right, so a node is searched without a look at what is a gap.
"""

# mypy: disable-error-code="untyped-decorator, no-any-return, return-value"
from __future__ import annotations

from typing import NamedTuple

import numpy as np

from functions.kernels.compiled import kernel

__all__ = ["Alex"]

SLOTS_MIN, SLOTS_MAX = 64, 1_024
"""Of a node; powers of two. Larger ones are searched in fewer steps and written in slower ones."""
_FULL, _BUILT = 0.8, 0.6
_ABSENT = -(1 << 63)

_START, _SLOTS, _COUNT, _FIRST, _LAST, _LEAF, _NEXT = range(7)
"""Columns of ``nodes``: the first slot, the number of slots, of keys, the first and last key's slot in the node (0, -1:
none), whether it is a leaf, and the leaf that follows it (-1: none)."""
_ROOT, _N_NODES, _TOP, _N_CHAINED, _N_KEYS, _N_ROWS, _HEIGHT, _FREE = range(8)
"""Of ``state``: numbers in use; from _FREE on, for each power of two, the first slot of a free block, -1: none."""


class _Tree(NamedTuple):
    """All of an index.

    keys, values, used : by slot. The value of a leaf's key is its payload, or -1 - the number of its last link; that of
        an inner node's key is the child whose keys are not below it. The value of a free block's first slot is the next
        free block's
    nodes, models, bases : by node; a key's slot is about models[0] * (key - base) + models[1]
    links : by link, a payload and the link before it, -1: none
    """

    keys: np.ndarray
    values: np.ndarray
    used: np.ndarray
    nodes: np.ndarray
    models: np.ndarray
    bases: np.ndarray
    links: np.ndarray
    state: np.ndarray


_BY_SLOT, _BY_NODE, _BY_LINK = ("keys", "values", "used"), ("nodes", "models", "bases"), ("links",)


class Alex:
    """A sorted multimap of uint64 keys to payloads, which are whole numbers from 0 on. Not safe for threads that
    write."""

    def __init__(self, keys: np.ndarray | None = None, payloads: np.ndarray | None = None) -> None:
        """Hold ``keys`` (uint64[n], any order, equal ones allowed) with ``payloads`` (int64[n])."""
        n = 0 if keys is None else len(keys)
        n_slots = 4 * SLOTS_MAX + 2 * n
        n_nodes = 64 + 4 * n // SLOTS_MAX
        self._tree = _Tree(
            np.empty(n_slots, np.uint64), np.empty(n_slots, np.int64), np.empty(n_slots, np.bool_),
            np.empty((n_nodes, 7), np.int64), np.empty((n_nodes, 2)), np.empty(n_nodes, np.uint64),
            np.empty((64, 2), np.int64), np.empty(_FREE + 64, np.int64),
        )  # fmt: skip
        _clear(self._tree)
        if keys is None or payloads is None or not n:
            return
        order = np.argsort(keys, kind="stable")
        ordered, values = np.ascontiguousarray(keys[order], np.uint64), _checked(payloads)[order]
        self._tree = self._tree._replace(links=np.empty((2 * n, 2), np.int64))
        _build(self._tree, ordered, values)
        self._tree = self._tree._replace(links=self._tree.links[: self._tree.state[_N_CHAINED] + 64].copy())

    def __len__(self) -> int:
        return int(self._tree.state[_N_ROWS])

    @property
    def n_bytes(self) -> int:
        """Of all arrays, spare room included."""
        return sum(int(array.nbytes) for array in self._tree)

    def insert(self, keys: np.ndarray, payloads: np.ndarray) -> None:
        """Add ``payloads`` (int64[n], from 0 on) under ``keys`` (uint64[n])."""
        keys, payloads = np.ascontiguousarray(keys, np.uint64), _checked(payloads)
        done = 0
        while (done := _insert(self._tree, keys, payloads, done)) < len(keys):
            self._grow()

    def find(self, keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return for each of ``keys`` (uint64[q]) how many payloads it has, int64[q], and all of them in the order of
        the keys and, for each, of the inserts: int64[sum]."""
        found = _find(self._tree, np.ascontiguousarray(keys, np.uint64))
        counts = _counts(self._tree.links, found)
        return counts, _payloads(self._tree.links, found, counts)

    def scan(self, low: int, high: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the keys from ``low`` to ``high``, both included, and their payloads: uint64[n], growing, int64[n]."""
        keys, found = _scan(self._tree, np.uint64(low), np.uint64(high))
        counts = _counts(self._tree.links, found)
        return np.repeat(keys, counts), _payloads(self._tree.links, found, counts)

    def _grow(self) -> None:
        """Double what is short."""
        tree = self._tree
        for short, names in zip(_short(tree), (_BY_SLOT, _BY_NODE, _BY_LINK), strict=True):
            if short:
                tree = tree._replace(**{name: _doubled(getattr(tree, name)) for name in names})
        self._tree = tree


def _checked(payloads: np.ndarray) -> np.ndarray:
    payloads = np.ascontiguousarray(payloads, np.int64)
    if len(payloads) and payloads.min() < 0:
        raise ValueError(f"payloads are numbers from 0 on; least={payloads.min()}")
    return payloads


def _doubled(array: np.ndarray) -> np.ndarray:
    longer = np.empty((2 * len(array), *array.shape[1:]), array.dtype)
    longer[: len(array)] = array
    return longer


@kernel(nogil=True)
def _clear(tree: _Tree) -> None:
    tree.state[:] = 0
    tree.state[_FREE:] = -1
    tree.state[_HEIGHT] = 1
    tree.state[_ROOT] = _new_node(tree, SLOTS_MIN, True, -1)


@kernel(nogil=True)
def _class_of(n_slots: int) -> int:
    number = 0
    while 1 << number < n_slots:
        number += 1
    return number


@kernel(nogil=True)
def _allocate(tree: _Tree, n_slots: int) -> int:
    """Return the first of ``n_slots`` free slots, a power of two. There must be room."""
    number = _FREE + _class_of(n_slots)
    start = tree.state[number]
    if start >= 0:
        tree.state[number] = tree.values[start]
        return start
    start = tree.state[_TOP]
    tree.state[_TOP] += n_slots
    return start


@kernel(nogil=True)
def _release(tree: _Tree, start: int, n_slots: int) -> None:
    number = _FREE + _class_of(n_slots)
    tree.values[start] = tree.state[number]
    tree.state[number] = start


@kernel(nogil=True)
def _new_node(tree: _Tree, n_slots: int, leaf: bool, following: int) -> int:
    node = tree.state[_N_NODES]
    tree.state[_N_NODES] += 1
    of = tree.nodes[node]
    of[_START], of[_SLOTS], of[_LEAF], of[_NEXT] = _allocate(tree, n_slots), n_slots, leaf, following
    of[_COUNT], of[_FIRST], of[_LAST] = 0, 0, -1
    tree.used[of[_START] : of[_START] + n_slots] = False
    tree.models[node, 0], tree.models[node, 1], tree.bases[node] = 0.0, 0.0, 0
    return node


@kernel(nogil=True, inline="always")
def _predicted(tree: _Tree, node: int, key: np.uint64, first: int, last: int) -> int:
    """Return about where a key is among the slots [first, last]."""
    base = tree.bases[node]
    # A difference of unsigned numbers is exact before it is rounded.
    away = np.float64(key - base) if key >= base else -np.float64(base - key)
    at = tree.models[node, 0] * away + tree.models[node, 1]
    if not at > first:
        return first
    return last if at >= last else np.int64(at)


@kernel(nogil=True, inline="always")
def _above(keys: np.ndarray, start: int, first: int, last: int, near: int, key: np.uint64) -> int:
    """Return the first slot of [first, last] whose key is greater than ``key``, ``last + 1`` if there is none; the
    search begins at the slot ``near`` of them and doubles its steps."""
    if last < first:
        return first
    step = 1
    if keys[start + near] <= key:
        low, high = near, near + 1
        while high <= last and keys[start + high] <= key:
            low = high
            high += step
            step *= 2
        high = min(high, last + 1)
    else:
        low, high = near - 1, near
        while low >= first and keys[start + low] > key:
            high = low
            low -= step
            step *= 2
        low = max(low, first - 1)
    while high - low > 1:
        middle = (low + high) >> 1
        if keys[start + middle] <= key:
            low = middle
        else:
            high = middle
    return high


@kernel(nogil=True)
def _put(tree: _Tree, node: int, key: np.uint64, value: int) -> None:
    """Add a key that the node does not have; it is not full."""
    of = tree.nodes[node]
    start, n_slots, first, last = of[_START], of[_SLOTS], of[_FIRST], of[_LAST]
    near = _predicted(tree, node, key, 0, n_slots - 1)
    above = _above(tree.keys, start, first, last, max(min(near, last), first), key)
    if last < 0:
        at = near
    elif above == first and first > 0:
        # The least key goes right before the others, as the greatest goes right behind them: if keys grow, or shrink,
        # the model has all of them at the end.
        at = first - 1
    elif above < n_slots and not tree.used[start + above]:
        at = above
        while at < near and above <= last and not tree.used[start + at + 1]:
            at += 1
        # The gaps before it have it on their right now.
        tree.keys[start + above : start + at] = key
    else:
        at = _opened(tree, start, n_slots, above)
    tree.keys[start + at], tree.values[start + at], tree.used[start + at] = key, value, True
    of[_COUNT] += 1
    if last < 0:
        of[_FIRST], of[_LAST] = at, at
        return
    # What was shifted may have moved the first key to the left, or the last one to the right.
    of[_FIRST] = min(first, at) if first == 0 or not tree.used[start + first - 1] else first - 1
    of[_LAST] = max(last, at) if last + 1 >= n_slots or not tree.used[start + last + 1] else last + 1


@kernel(nogil=True)
def _opened(tree: _Tree, start: int, n_slots: int, above: int) -> int:
    """Shift keys by one slot, to the nearest gap, so that one is free just before that of slot ``above``; return it."""
    right, left = above, above - 1
    while True:
        if right < n_slots:
            if not tree.used[start + right]:
                break
            right += 1
        if left >= 0:
            if not tree.used[start + left]:
                break
            left -= 1
    if right < n_slots and not tree.used[start + right]:
        for slot in range(start + right, start + above, -1):
            tree.keys[slot], tree.values[slot] = tree.keys[slot - 1], tree.values[slot - 1]
        tree.used[start + right] = True
        return above
    for slot in range(start + left, start + above - 1):
        tree.keys[slot], tree.values[slot] = tree.keys[slot + 1], tree.values[slot + 1]
    tree.used[start + left] = True
    return above - 1


@kernel(nogil=True)
def _fill(tree: _Tree, node: int, keys: np.ndarray, values: np.ndarray, begin: int, limit: int) -> None:
    """Lay ``keys`` out over the slots [begin, limit) of a node, each about where a line through them has it."""
    of = tree.nodes[node]
    start, n_slots, n = of[_START], of[_SLOTS], len(keys)
    tree.used[start : start + n_slots] = False
    tree.bases[node] = keys[0] if n else 0
    slope, intercept = _line(keys, limit - begin)
    tree.models[node, 0], tree.models[node, 1] = slope, intercept + begin
    of[_COUNT], of[_FIRST], of[_LAST] = n, 0, -1
    at = begin - 1
    for i in range(n):
        near = _predicted(tree, node, keys[i], begin, limit - 1)
        following = min(max(at + 1, near), limit - n + i)
        if i == 0:
            of[_FIRST] = following
        tree.keys[start + at + 1 : start + following + 1] = keys[i]
        at = following
        tree.values[start + at], tree.used[start + at] = values[i], True
        of[_LAST] = at


@kernel(nogil=True)
def _line(keys: np.ndarray, n_slots: int) -> tuple[float, float]:
    """Return the slope and intercept of the least-squares line from keys, less the first, to slots."""
    n = len(keys)
    if n < 2:
        return 0.0, 0.0
    scale = n_slots / n
    mean_x = 0.0
    for key in keys:
        mean_x += np.float64(key - keys[0])
    mean_x /= n
    mean_y = 0.5 * (n - 1)
    covariance, variance = 0.0, 0.0
    for i in range(n):
        x = np.float64(keys[i] - keys[0]) - mean_x
        covariance += x * (i - mean_y)
        variance += x * x
    if not variance > 0.0:
        return 0.0, 0.0
    slope = covariance / variance
    return slope * scale, (mean_y - slope * mean_x) * scale


@kernel(nogil=True)
def _content(tree: _Tree, node: int) -> tuple[np.ndarray, np.ndarray]:
    of = tree.nodes[node]
    keys, values = np.empty(of[_COUNT], np.uint64), np.empty(of[_COUNT], np.int64)
    n = 0
    for slot in range(of[_START] + of[_FIRST], of[_START] + of[_LAST] + 1):
        if tree.used[slot]:
            keys[n], values[n] = tree.keys[slot], tree.values[slot]
            n += 1
    return keys, values


@kernel(nogil=True)
def _relaid(tree: _Tree, node: int, n_slots: int, keys: np.ndarray, values: np.ndarray, begin: int, limit: int) -> None:
    """Lay a node out anew with another content and number of slots."""
    of = tree.nodes[node]
    _release(tree, of[_START], of[_SLOTS])
    of[_START], of[_SLOTS] = _allocate(tree, n_slots), n_slots
    _fill(tree, node, keys, values, begin, limit)


@kernel(nogil=True)
def _make_room(tree: _Tree, node: int, parent: int, key: np.uint64) -> None:
    """Expand a full node or, if it is as large as may be, split it; ``parent`` (-1: none) is not full."""
    of = tree.nodes[node]
    keys, values = _content(tree, node)
    slots = of[_SLOTS]
    grows = of[_LEAF] and of[_NEXT] < 0 and key > keys[-1]
    shrinks = of[_LEAF] and key < keys[0]
    if slots < SLOTS_MAX:
        # The room goes to where the keys do.
        _relaid(tree, node, 2 * slots, keys, values, slots if shrinks else 0, slots if grows else 2 * slots)
        return
    if grows:
        _relaid(tree, node, SLOTS_MAX, keys, values, 0, SLOTS_MAX)
        right, bound = _new_node(tree, SLOTS_MIN, True, -1), key
    else:
        half = 0 if shrinks else len(keys) // 2
        right, bound = _new_node(tree, SLOTS_MAX, of[_LEAF], of[_NEXT]), keys[half]
        _fill(tree, right, keys[half:], values[half:], 0, SLOTS_MAX)
        left_slots = SLOTS_MIN if shrinks else SLOTS_MAX
        _relaid(tree, node, left_slots, keys[:half], values[:half], 0, left_slots)
        if shrinks:
            tree.models[node, 1] = SLOTS_MIN - 1
    if of[_LEAF]:
        of[_NEXT] = right
    if parent < 0:
        parent = _new_node(tree, SLOTS_MIN, False, -1)
        _put(tree, parent, np.uint64(0), node)
        tree.state[_ROOT] = parent
        tree.state[_HEIGHT] += 1
    _put(tree, parent, bound, right)


@kernel(nogil=True)
def _short(tree: _Tree) -> tuple[bool, bool, bool]:
    """Whether slots, nodes and links may be too few for one insert, which may split a node of each level."""
    state, levels = tree.state, tree.state[_HEIGHT] + 2
    return (
        state[_TOP] + 3 * SLOTS_MAX * levels > len(tree.keys),
        state[_N_NODES] + 2 * levels > len(tree.nodes),
        state[_N_CHAINED] + 2 > len(tree.links),
    )


@kernel(nogil=True)
def _insert(tree: _Tree, keys: np.ndarray, payloads: np.ndarray, done: int) -> int:
    """Insert from number ``done`` on; return how many are done, fewer than all if there is no more room."""
    while done < len(keys):
        slots, nodes, links = _short(tree)
        if slots or nodes or links:
            break
        key = keys[done]
        node, parent = tree.state[_ROOT], -1
        while True:
            of = tree.nodes[node]
            if of[_LEAF] or of[_COUNT] + 1 > _FULL * of[_SLOTS]:
                break
            parent, node = node, _child(tree, node, key)
        if of[_LEAF]:
            near = _predicted(tree, node, key, of[_FIRST], of[_LAST])
            above = _above(tree.keys, of[_START], of[_FIRST], of[_LAST], near, key)
            if above > of[_FIRST] and tree.keys[of[_START] + above - 1] == key:
                _chain(tree, of[_START] + above - 1, payloads[done])
                done += 1
                continue
        if of[_COUNT] + 1 > _FULL * of[_SLOTS]:
            _make_room(tree, node, parent, key)
            continue
        _put(tree, node, key, payloads[done])
        tree.state[_N_KEYS] += 1
        tree.state[_N_ROWS] += 1
        done += 1
    return done


@kernel(nogil=True, inline="always")
def _child(tree: _Tree, node: int, key: np.uint64) -> int:
    of = tree.nodes[node]
    near = _predicted(tree, node, key, of[_FIRST], of[_LAST])
    return tree.values[of[_START] + _above(tree.keys, of[_START], of[_FIRST], of[_LAST], near, key) - 1]


@kernel(nogil=True)
def _chain(tree: _Tree, slot: int, payload: int) -> None:
    state, links = tree.state, tree.links
    before = -1 - tree.values[slot]
    if before < 0:
        before = state[_N_CHAINED]
        links[before, 0], links[before, 1] = tree.values[slot], -1
        state[_N_CHAINED] += 1
    link = state[_N_CHAINED]
    links[link, 0], links[link, 1] = payload, before
    state[_N_CHAINED] += 1
    state[_N_ROWS] += 1
    tree.values[slot] = -1 - link


@kernel(nogil=True)
def _build(tree: _Tree, keys: np.ndarray, payloads: np.ndarray) -> None:
    """Fill an empty tree, with room enough, from keys in order."""
    n = 0
    distinct, values = np.empty(len(keys), np.uint64), np.empty(len(keys), np.int64)
    for i in range(len(keys)):
        if n and distinct[n - 1] == keys[i]:
            tree.values[0] = values[n - 1]
            _chain(tree, 0, payloads[i])
            values[n - 1] = tree.values[0]
        else:
            distinct[n], values[n] = keys[i], payloads[i]
            n += 1
    tree.state[:_N_CHAINED] = 0
    tree.state[_N_KEYS], tree.state[_N_ROWS], tree.state[_HEIGHT] = n, len(keys), 0
    level_keys, level_values, leaf = distinct[:n], values[:n], True
    while True:
        tree.state[_HEIGHT] += 1
        step = np.int64(SLOTS_MAX * _BUILT)
        n_nodes = (len(level_keys) + step - 1) // step
        first_keys, numbers = np.empty(n_nodes, np.uint64), np.empty(n_nodes, np.int64)
        for i in range(n_nodes):
            part = slice(i * step, min(len(level_keys), (i + 1) * step))
            node = _new_node(tree, SLOTS_MAX, leaf, -1)
            _fill(tree, node, level_keys[part], level_values[part], 0, SLOTS_MAX)
            first_keys[i], numbers[i] = level_keys[i * step], node
            if leaf and i:
                tree.nodes[node - 1][_NEXT] = node
        first_keys[0] = 0
        if n_nodes == 1:
            tree.state[_ROOT] = numbers[0]
            return
        level_keys, level_values, leaf = first_keys, numbers, False


@kernel(nogil=True)
def _find(tree: _Tree, keys: np.ndarray) -> np.ndarray:
    """Return the value of each key, _ABSENT where it is not there."""
    found = np.empty(len(keys), np.int64)
    for i in range(len(keys)):
        key = keys[i]
        node = tree.state[_ROOT]
        while not tree.nodes[node, _LEAF]:
            node = _child(tree, node, key)
        of = tree.nodes[node]
        near = _predicted(tree, node, key, of[_FIRST], of[_LAST])
        slot = of[_START] + _above(tree.keys, of[_START], of[_FIRST], of[_LAST], near, key) - 1
        found[i] = tree.values[slot] if slot >= of[_START] + of[_FIRST] and tree.keys[slot] == key else _ABSENT
    return found


@kernel(nogil=True)
def _scan(tree: _Tree, low: np.uint64, high: np.uint64) -> tuple[np.ndarray, np.ndarray]:
    node = tree.state[_ROOT]
    while not tree.nodes[node, _LEAF]:
        node = _child(tree, node, low)
    keys, values = np.empty(64, np.uint64), np.empty(64, np.int64)
    n = 0
    while node >= 0:
        of = tree.nodes[node]
        for slot in range(of[_START] + of[_FIRST], of[_START] + of[_LAST] + 1):
            if not tree.used[slot] or tree.keys[slot] < low:
                continue
            if tree.keys[slot] > high:
                return keys[:n], values[:n]
            if n == len(keys):
                keys, values = np.append(keys, keys), np.append(values, values)
            keys[n], values[n] = tree.keys[slot], tree.values[slot]
            n += 1
        node = of[_NEXT]
    return keys[:n], values[:n]


@kernel(nogil=True)
def _counts(links: np.ndarray, found: np.ndarray) -> np.ndarray:
    """Return how many payloads each value stands for."""
    counts = np.empty(len(found), np.int64)
    for i in range(len(found)):
        if found[i] == _ABSENT:
            counts[i] = 0
            continue
        counts[i] = 1
        if found[i] < 0:
            link = links[-1 - found[i], 1]
            while link >= 0:
                counts[i] += 1
                link = links[link, 1]
    return counts


@kernel(nogil=True)
def _payloads(links: np.ndarray, found: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Return the payloads of all values, those of one in the order of their inserts."""
    payloads = np.empty(counts.sum(), np.int64)
    limit = 0
    for i in range(len(found)):
        limit += counts[i]
        if counts[i] == 0:
            continue
        if found[i] >= 0:
            payloads[limit - 1] = found[i]
            continue
        link, at = -1 - found[i], limit
        while link >= 0:
            at -= 1
            payloads[at] = links[link, 0]
            link = links[link, 1]
    return payloads
