"""Fitted estimators in skops' format: a zip of arrays and of JSON that names types. Reading it runs no code from it.

Every type in a file is compared with a list before anything is made of it: skops' own (estimators of scikit-learn,
numpy's arrays and scalars) and `TRUSTED`. skops leaves out trees, because scikit-learn follows the numbers of their
nodes without checking them, and a made-up file could crash the process; here they are checked (`_check_trees`).
"""

import io
import json
from collections.abc import Iterable, Iterator
from functools import partial
from types import MethodType
from typing import Any
from zipfile import ZIP_DEFLATED, ZIP_STORED, ZipFile, ZipInfo

import numpy as np

#: Types that our models hold, and calibrated ones, beside those that skops trusts.
TRUSTED = (
    "sklearn.calibration._CalibratedClassifier",
    "sklearn.calibration._SigmoidCalibration",
    "sklearn.ensemble._hist_gradient_boosting.predictor.TreePredictor",
    "sklearn.tree._tree.Tree",
    "sklearn.utils._bunch.Bunch",
)
#: The first bytes of every file in this format; no pickle begins so.
MAGIC = b"PK\x03\x04"
_SCHEMA = "schema.json"
#: Bytes of a file when it is not compressed, and of the JSON in it: far more than any useful model has.
_MAX_BYTES = 1024**3
_MAX_SCHEMA_BYTES = 64 * 1024**2
#: Objects that skops' comparison of types visits; it visits one again for each reference to it.
_MAX_VISITS = 1_000_000
#: The left child of a leaf, for scikit-learn; it follows every other number.
_LEAF = -1
_DAMAGED = "a tree in it is damaged: its nodes do not lead to leaves"


class UntrustedTypeError(ValueError):
    """Something must not be in a model, or cannot be saved in this format; the text names it."""


def pack(fitted: Any) -> bytes:
    """The file of fitted estimators: equal ones have equal files.

    Raises:
        UntrustedTypeError: it could not be loaded again.
    """
    from skops.io import dumps  # type: ignore[import-untyped]

    try:
        raw = dumps(fitted)
    except TypeError as error:
        raise UntrustedTypeError(" ".join(str(error).split())) from error
    packed = io.BytesIO()
    with ZipFile(io.BytesIO(raw)) as source, ZipFile(packed, "w") as target:
        schema = json.loads(source.read(_SCHEMA))
        files = _renumber(schema)
        _write(target, _SCHEMA, json.dumps(schema, separators=(",", ":")).encode())
        for old, new in files.items():
            _write(target, new, _cleaned(source.read(old)))
    unpack(packed.getvalue())
    return packed.getvalue()


def unpack(packed: bytes) -> Any:
    """What `pack`, or somebody's `skops.io.dump`, has saved.

    Raises:
        UntrustedTypeError: it names a type that is not trusted, has damaged trees, or would exhaust memory or time.
        Exception: it is not in this format; what is raised depends on where it is damaged.
    """
    # not before a model is loaded: importing it takes half a second, since it lists scikit-learn's estimators
    from skops.io import get_untrusted_types, loads
    from skops.io.exceptions import UntrustedTypesFoundException  # type: ignore[import-untyped]

    plain = _inflated(packed)
    try:
        fitted = loads(plain, trusted=TRUSTED)
    except UntrustedTypesFoundException as error:
        unknown = sorted({*get_untrusted_types(data=plain)} - {*TRUSTED})
        msg = f"{', '.join(unknown)} is not among the trusted types"
        raise UntrustedTypeError(msg) from error
    _check_trees(fitted)
    return fitted


def _inflated(packed: bytes) -> bytes:
    """The same file without compression, once its size and its references are within limits.

    Raises:
        UntrustedTypeError: they are not.
    """
    plain = io.BytesIO()
    with ZipFile(io.BytesIO(packed)) as source, ZipFile(plain, "w") as target:
        members = {member.filename: member for member in source.infolist()}
        if (
            sum(member.file_size for member in members.values()) > _MAX_BYTES
            or _SCHEMA in members
            and members[_SCHEMA].file_size > _MAX_SCHEMA_BYTES
        ):
            msg = "it is too large without compression"
            raise UntrustedTypeError(msg)
        for name, member in members.items():
            # zipfile inflates other kinds without a limit
            if member.compress_type not in (ZIP_STORED, ZIP_DEFLATED):
                msg = "it is compressed by another method than deflate"
                raise UntrustedTypeError(msg)
            with source.open(member) as file:
                # with a length, no more than that is inflated, whatever the size says
                content = file.read(member.file_size)
            if content.startswith(b"PK"):  # its members would need limits, too
                msg = "sparse matrices are not supported"
                raise UntrustedTypeError(msg)
            if name == _SCHEMA:
                _check_references(json.loads(content))
            target.writestr(ZipInfo(name), content)
    return plain.getvalue()


def _check_references(schema: Any) -> None:
    """Refuse objects that refer to others so often that comparing their types would not end.

    An object with a known `__id__` is a reference. skops writes every object whole each time, and could not write one
    that contains itself.

    Raises:
        UntrustedTypeError: it is so.
    """
    written: dict[Any, list[dict[str, Any]]] = {}
    waiting = [schema]
    while waiting:
        node = waiting.pop()
        if isinstance(node, dict):
            if _number(node) is not None:
                written.setdefault(_number(node), []).append(node)
            waiting.extend(node.values())
        elif isinstance(node, list):
            waiting.extend(node)
    known: dict[Any, int | None] = {}

    def visits(node: Any) -> int:
        if isinstance(node, list):
            return sum(map(visits, node))
        if not isinstance(node, dict):
            return 0
        number = _number(node)
        if number is None:
            return 1 + sum(map(visits, node.values()))
        if number not in known:
            known[number] = None
            # skops takes the first that it meets, in an order of its own
            known[number] = max(1 + sum(map(visits, one.values())) for one in written[number])
        found = known[number]
        if found is None:
            msg = "an object in it contains itself"
            raise UntrustedTypeError(msg)
        return found

    if visits(schema) > _MAX_VISITS:
        msg = f"its objects refer to more than {_MAX_VISITS:,} others"
        raise UntrustedTypeError(msg)


def _number(node: dict[str, Any]) -> Any:
    number = node.get("__id__")
    return number if isinstance(number, int | float | str) else None


def _renumber(schema: Any) -> dict[str, str]:
    """Number objects by their first place: skops takes their addresses in memory. The files' old and new names."""
    numbers: dict[int, int] = {}
    files: dict[str, str] = {}
    waiting = [schema]
    while waiting:
        node = waiting.pop()
        if isinstance(node, dict):
            if (
                node.get("__loader__") == "JsonNode"
            ):  # equal numbers and texts may be one object or two
                node.pop("__id__", None)
            elif isinstance(number := node.get("__id__"), int):
                node["__id__"] = numbers.setdefault(number, len(numbers) + 1)
            if isinstance(name := node.get("file"), str):
                suffix = name.rpartition(".")[2]
                node["file"] = files.setdefault(name, f"{len(files) + 1}.{suffix}")
            waiting.extend(reversed(node.values()))
        elif isinstance(node, list):
            waiting.extend(reversed(node))
    return files


def _cleaned(content: bytes) -> bytes:
    """The nodes of a tree have gaps between their fields, with whatever was in memory: zeros instead."""
    if not content.startswith(np.lib.format.MAGIC_PREFIX):
        return content
    array = np.load(io.BytesIO(content), allow_pickle=False)
    if array.dtype.names is None:
        return content
    begin = len(content) - array.nbytes
    items = np.frombuffer(content, np.uint8, offset=begin).reshape(-1, array.itemsize)
    used = np.zeros(array.itemsize, np.uint8)
    for field, place, *_ in (array.dtype.fields or {}).values():
        used[place : place + field.itemsize] = 1
    return content[:begin] + (items * used).tobytes()


def _write(target: ZipFile, name: str, content: bytes) -> None:
    # without the time of writing
    target.writestr(ZipInfo(name), content, compress_type=ZIP_DEFLATED)


def _check_trees(fitted: Any) -> None:
    """Refuse trees that lead out of their nodes or ask for features that no row has.

    Children stand behind their parents, as scikit-learn numbers them: so no walk is without an end.

    Raises:
        UntrustedTypeError: there is one.
    """
    from sklearn.ensemble._hist_gradient_boosting.predictor import TreePredictor
    from sklearn.tree._tree import Tree

    for tree, width in _trees(fitted, None, set(), (Tree, TreePredictor)):
        if isinstance(tree, Tree):
            if tree.node_count > tree.capacity:
                raise UntrustedTypeError(_DAMAGED)
            inner = tree.children_left != _LEAF
            left, right, feature = tree.children_left, tree.children_right, tree.feature
        else:
            nodes = tree.nodes
            if type(nodes) is not np.ndarray:
                raise UntrustedTypeError(_DAMAGED)
            inner = nodes["is_leaf"] == 0
            left, right, feature = (
                nodes[name].astype(np.int64) for name in ("left", "right", "feature_idx")
            )
            if nodes["is_categorical"].any():
                msg = "splits of categorical features are not supported"
                raise UntrustedTypeError(msg)
        places = np.arange(len(inner))
        follow = [(side > places) & (side < len(inner)) for side in (left, right)]
        asks = (feature >= 0) & (feature < width)
        if not len(inner) or not (follow[0] & follow[1] & asks)[inner].all():
            raise UntrustedTypeError(_DAMAGED)


def _trees(
    held: Any, width: int | None, seen: set[tuple[int, int | None]], kinds: tuple[type, ...]
) -> Iterator[tuple[Any, int]]:
    """Every tree, with the number of features of the rows that it is given."""
    if (id(held), width) in seen:
        return
    seen.add((id(held), width))
    if isinstance(held, kinds):
        yield held, width or 0
        return
    inside: Iterable[Any] = ()
    if isinstance(held, dict):
        inside = held.values()
    elif isinstance(held, list | tuple | set):
        inside = held
    elif isinstance(held, np.ndarray):
        if type(held) is not np.ndarray:  # a masked one hides what it holds
            msg = f"{type(held).__name__} is not among the trusted types"
            raise UntrustedTypeError(msg)
        inside = held.ravel().tolist() if held.dtype == object else ()
    elif isinstance(held, partial):
        inside = (held.func, held.args, held.keywords, vars(held))
    elif isinstance(held, MethodType):
        inside = (held.__self__,)
    elif hasattr(held, "__dict__"):
        inside, own = vars(held).values(), vars(held).get("n_features_in_")
        # a forest checks a row's length once, and not for each of its trees
        width = min(own, width) if "tree_" in vars(held) and own and width else own
    for each in inside:
        yield from _trees(each, width, seen, kinds)
