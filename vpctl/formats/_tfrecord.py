"""TFRecord files as rows, without TensorFlow. A row is a tf.train.Example: lists of bytes or numbers by name."""

import os
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from typing import Any

from ..errors import RecordFailed, UserError, os_reason

MAX_RECORD = 1 << 28
"""Maximum number of bytes of a row."""
_LISTS = ("bytes_list", "float_list", "int64_list")
"""The lists that a feature can be, in the order of their numbers in the definition."""


def examples(path: str, names: Sequence[str]) -> Iterator[tuple[str, Any]]:
    """The place and the values of each row, or a `RecordFailed`. Only the features with these `names` are read.

    Each value is the list of a feature. A row with a wrong checksum is a `RecordFailed`. So is the place at which the
    file is cut off or damaged, and nothing behind it is read. Raises `UserError` if the file cannot be read.
    """
    example, checksum = _libraries()
    number = 0
    try:
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            while header := file.read(12):
                number += 1
                where = f"row {number}"
                length = int.from_bytes(header[:8], "little")
                if len(header) < 12 or checksum(header[:8]) != header[8:]:
                    yield where, RecordFailed("the file is cut off or damaged here, or it is no TFRecord file")
                    return
                if length > min(MAX_RECORD, size):
                    yield where, RecordFailed(f"{length} bytes are announced, and the file is cut off or damaged here")
                    return
                content, ending = file.read(length), file.read(4)
                if len(ending) < 4:
                    yield where, RecordFailed("the file is cut off here")
                elif checksum(content) != ending:
                    yield where, RecordFailed("is damaged: its checksum is wrong")
                else:
                    yield where, _values(example, content, names)
    except OSError as error:
        raise UserError(f"{path}: {os_reason(error)}") from None


def _values(example: Any, content: bytes, names: Sequence[str]) -> dict[str, list[Any]] | RecordFailed:
    from google.protobuf.message import DecodeError

    try:
        features = example.FromString(content).features.feature
    except DecodeError:
        return RecordFailed("is not a tf.train.Example")
    found = {name: features[name] for name in names if name in features}
    kinds = {name: one.WhichOneof("kind") for name, one in found.items()}
    return {name: [*getattr(found[name], kind).value] for name, kind in kinds.items() if kind}


@cache
def _libraries() -> tuple[Any, Callable[[bytes], bytes]]:
    """The message class tf.train.Example, and the function of the four bytes that check others."""
    try:
        import google_crc32c
        from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
    except ImportError:
        raise UserError("TFRecord needs more packages: pip install 'vpctl[formats]'") from None

    def checksum(content: bytes) -> bytes:
        value: int = google_crc32c.value(content)
        return ((((value >> 15) | (value << 17)) + 0xA282EAD8) & 0xFFFFFFFF).to_bytes(4, "little")

    field = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(name="vpctl/example.proto", package="vpctl.example", syntax="proto3")

    def message(name: str) -> Any:
        return file.message_type.add(name=name)

    def add(to: Any, name: str, number: int, kind: int, of: str = "", *, is_list: bool = False, **more: Any) -> None:
        label = field.LABEL_REPEATED if is_list else field.LABEL_OPTIONAL
        of = f".{file.package}.{of}" if of else of
        to.field.add(name=name, number=number, type=kind, type_name=of or None, label=label, **more)

    kinds = (field.TYPE_BYTES, field.TYPE_FLOAT, field.TYPE_INT64)
    for name, kind in zip(_LISTS, kinds, strict=True):
        add(message(name), "value", 1, kind, is_list=True)
    feature = message("Feature")
    feature.oneof_decl.add(name="kind")
    for number, name in enumerate(_LISTS, 1):
        add(feature, name, number, field.TYPE_MESSAGE, name, oneof_index=0)
    features = message("Features")
    entry = features.nested_type.add(name="FeatureEntry")
    entry.options.map_entry = True
    add(entry, "key", 1, field.TYPE_STRING)
    add(entry, "value", 2, field.TYPE_MESSAGE, "Feature")
    add(features, "feature", 1, field.TYPE_MESSAGE, "Features.FeatureEntry", is_list=True)
    add(message("Example"), "features", 1, field.TYPE_MESSAGE, "Features")
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("vpctl.example.Example")), checksum
