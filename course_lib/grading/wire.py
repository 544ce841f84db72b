"""Tensors as JSON, in and out of a kernel that is not trusted: {"dtype", "shape", "data": base64 of the bytes}.

Bytes, and not decimals: exact, small, and NaN and infinities need no special case.
"""

from __future__ import annotations

import base64
import json
import math
import os
import struct
from typing import Any

import numpy as np
import torch
from torch import Tensor

MIME = "application/vnd.course.answer+json"
LARGEST = 4_000_000  # bytes of one tensor; the cases of the course are a thousand times smaller
_INTEGERS = (torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)
_FLOATS = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
_NUMBERS = (int, float, bool)
DTYPES = {str(d).removeprefix("torch."): d for d in _INTEGERS + _FLOATS}
HEADER = struct.Struct(">cI")  # of a frame: its kind and the length of what follows
# What an answer may return in a tensor's place. Only the kind travels; a value of that kind stands for it here.
KINDS = {
    "NoneType": None,
    "list": [],
    "tuple": (),
    "dict": {},
    "str": "",
    "int": 0,
    "float": 0.0,
    "bool": False,
}
KINDS |= {"ndarray": np.zeros(0), "generator": (x for x in ()), "function": lambda: None}


class Unreadable(ValueError):
    """What came out of the kernel is not what its check cell sends."""


def encode(value: Any) -> dict:
    """A tensor with its values; a number or a few of them as they are (inputs); of anything else, its kind's name."""
    if isinstance(value, Tensor):
        return _encode_tensor(value.detach())
    if type(value) in _NUMBERS:
        return {"kind": type(value).__name__, "number": repr(value)}
    if type(value) in (list, tuple) and len(value) <= 16 and all(type(x) in _NUMBERS for x in value):
        return {"kind": type(value).__name__, "items": [encode(x) for x in value]}
    return {"kind": type(value).__name__}


def _encode_tensor(x: Tensor) -> dict:
    head = {"dtype": str(x.dtype).removeprefix("torch."), "shape": list(x.shape), "device": x.device.type}
    if head["dtype"] not in DTYPES or x.layout != torch.strided:
        return {"kind": "unusual tensor"}
    if x.is_meta or x.numel() * x.element_size() > LARGEST:  # too large to be right: its shape says so
        return head
    plain = (
        torch.empty(x.shape, dtype=x.dtype).copy_(x).reshape(-1)
    )  # whatever view x is: its values, in order
    data = plain.view(torch.uint8).numpy().tobytes() if plain.numel() else b""
    return head | {"data": base64.b64encode(data).decode()}


def decode(message: Any) -> Any:
    """The inverse of `encode`, for any JSON whatsoever: a value, or Unreadable."""
    try:
        if "kind" not in message:
            return _decode_tensor(message)
        if message["kind"] in ("int", "float", "bool") and "number" in message:
            return {"int": int, "float": float, "bool": "True".__eq__}[message["kind"]](message["number"])
        if message["kind"] in ("list", "tuple") and "items" in message:
            items = [decode(x) for x in message["items"][:16] if "number" in x]
            return items if message["kind"] == "list" else tuple(items)
        return KINDS.get(message["kind"], object())
    except (TypeError, ValueError, KeyError, AttributeError, RuntimeError, OverflowError) as error:
        raise Unreadable(f"Not a value: {type(error).__name__}") from None


def _decode_tensor(message: dict) -> Tensor:
    dtype, shape = DTYPES[message["dtype"]], message["shape"]
    if not (
        isinstance(shape, list) and len(shape) <= 16 and all(type(n) is int and 0 <= n < 2**62 for n in shape)
    ):
        raise Unreadable("Not a shape")
    size = math.prod(shape) * dtype.itemsize
    if "data" not in message:
        return torch.empty((1,) * len(shape), dtype=dtype, device="meta").expand(shape)
    data = base64.b64decode(message["data"], validate=True)
    if len(data) != size or size > LARGEST:
        raise Unreadable("The data do not fit the shape")
    if not size:
        return torch.empty(shape, dtype=dtype)
    flat = torch.frombuffer(bytearray(data), dtype=torch.uint8)
    return (flat != 0 if dtype == torch.bool else flat.view(dtype)).reshape(shape)


def encode_all(values: dict[str, Any]) -> dict[str, dict]:
    return {str(name)[:100]: encode(value) for name, value in values.items()}


def decode_all(message: Any, most: int = 64) -> dict[str, Any]:
    """Named values; a dict of at most `most`."""
    if not isinstance(message, dict) or len(message) > most:
        raise Unreadable("Not a dict of values")
    return {name: decode(value) for name, value in message.items()}


# ---------------------------------------------------------------- frames on a pipe


def write_frame(pipe: int, kind: bytes, data: bytes = b"") -> None:
    """Send a frame: one byte of kind, the length, the data."""
    view = memoryview(HEADER.pack(kind, len(data)) + data)
    while view:
        view = view[os.write(pipe, view) :]


def read_frame(pipe: int) -> tuple[bytes, bytes] | None:
    """The next frame's kind and data; None where the pipe is closed."""
    head = _exactly(pipe, HEADER.size)
    if not head:
        return None
    kind, size = HEADER.unpack(head)
    return kind, _exactly(pipe, size)


def _exactly(pipe: int, size: int) -> bytes:
    data = bytearray()
    while len(data) < size and (chunk := os.read(pipe, min(size - len(data), 1 << 20))):
        data += chunk
    return bytes(data) if len(data) == size else b""


def to_json(value: Any) -> bytes:
    return json.dumps(value).encode()
