"""From a row of a file, or a document, to the parameters of a task.

Responsible for: reading `column=field` and checking it against everything known before the first row; turning rows into
parameters, quickly. Must not know: where rows come from, stores, terminals.

Rules:
1. Errors that concern all rows are raised before the first one, as UsageError; an error in one row is a
   `RowError`.
2. No message holds a value: it may be a secret.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from disbatch_host.client.importing.rows import ReadJson, duplicates
from disbatch_host.client.parameters import from_text, is_json
from disbatch_host.errors import FieldError, UsageError
from disbatch_protocol.faults import near_name
from disbatch_protocol.parameter_types import Expected
from disbatch_protocol.parameters import ParameterSchema

Row = Any  # a list of texts, one for each column, or an object
Mapper = Callable[[Row], dict[str, Any]]
_REFERENCE = "document."  # prefix of a parameter value taken from the document, as in Disbatch 4
_NOT_THERE = object()


class RowError(Exception):
    """A row that does not fit; the message says why. `column`: the one that is to be mended, if it is known."""

    def __init__(self, reason: str, column: str | None = None) -> None:
        super().__init__(reason)
        self.column = column


@dataclass(frozen=True, slots=True, kw_only=True)
class Field:
    """One `column=field`."""

    column: str  # of an object: a name, or a dotted path
    path: tuple[str, ...]  # of the parameter: its name, or the path to it
    is_json: bool = False  # `column:=field`

    @property
    def name(self) -> str:
        return ".".join(self.path)


def parse_fields(texts: Sequence[str], columns: Sequence[str] | None) -> list[Field]:
    """`column=field` and `column:=field`. With `columns` (of a header) names may contain "=" themselves, and an
    unknown one raises UsageError, as do two that set the same parameter."""
    fields = [_parse_field(text, columns) for text in texts]
    seen: dict[tuple[str, ...], Field] = {}
    for field in fields:
        for size in range(1, len(field.path) + 1):
            other = seen.get(field.path[:size])
            if other is not None:
                raise FieldError("maps", f"both {other.column!r} and {field.column!r} would become {other.name!r}")
        longer = next((other for path, other in seen.items() if path[: len(field.path)] == field.path), None)
        if longer is not None:
            raise FieldError("maps", f"{field.column!r} would become {field.name!r}, which is to hold {longer.name!r}")
        seen[field.path] = field
    return fields


def _parse_field(text: str, columns: Sequence[str] | None) -> Field:
    splits = [index for index, one in enumerate(text) if one == "=" and index > 0]
    found = None
    for index in splits:
        is_json = text[index - 1] == ":" and not (columns and text[:index] in columns)
        column, field = text[: index - is_json], text[index + 1 :]
        if found is None or (columns and column in columns):
            found = (column, field, is_json)
        if columns is None or column in columns:
            break
    if found is None or not found[0] or not all(found[1].split(".")):
        raise FieldError("maps", f"expected column=field (or column:=field for JSON), found {text!r:.80}")
    column, field, is_json = found
    if columns is not None:
        require_column("maps", column, columns)
    return Field(column=column, path=tuple(field.split(".")), is_json=is_json)


def require_column(named_by: str, column: str, columns: Sequence[str]) -> None:
    """Raises FieldError, for the rule that names it, if the header does not have this column, or has it twice."""
    if column not in columns:
        near = near_name(column, columns)
        there_are = ", ".join(map(repr, columns))
        hint = f"did you mean {near!r}?" if near else f"there are {there_are:.300}"
        raise FieldError(named_by, f"no column {column!r} in the header; {hint}")
    if list(columns).count(column) > 1:
        raise FieldError(named_by, f"the header has more than one column {column!r}; give them different names")


def of_all_columns(columns: Sequence[str]) -> list[Field]:
    """Without `maps`: each column becomes the parameter of its name."""
    if double := duplicates(columns):
        raise FieldError(
            "maps", f"the header has more than one column {double[0]!r}; give them different names, or say which to use"
        )
    if "" in columns:
        raise FieldError(
            "maps", f"column {columns.index('') + 1} of the header has no name; give it one, or say which to use"
        )
    return [Field(column=column, path=(column,)) for column in columns]


def csv_mapper(
    columns: Sequence[str],
    fields: Sequence[Field],
    schema: ParameterSchema | None,
    constants: Mapping[str, Any],
    read_json: ReadJson,
) -> Mapper:
    """Parameters from a list of texts, each read by the schema (`client.parameters.from_text`), or as JSON if `:=` asks
    for it.

    An empty field is left out; but if there is no schema, or the schema requires a string, it is an empty string, and
    null if the schema requires the parameter and allows null.
    """
    plans = [(columns.index(field.column), field, *_plan_of(field, schema, read_json)) for field in fields]
    whole = [index for index, *_ in plans] == list(range(len(columns)))
    if whole and all(read is None and empty == "" and len(field.path) == 1 for _, field, read, empty in plans):
        names = [field.path[0] for _, field, *_ in plans]
        return lambda row: {**dict(zip(names, row, strict=True)), **constants}

    def parameters(row: Row) -> dict[str, Any]:
        made: dict[str, Any] = {}
        for index, field, read, empty in plans:
            value: Any = row[index]
            if not value:
                if empty is _NOT_THERE:
                    continue
                value = empty
            elif read is not None:
                value = read(value)
            _put(made, field.path, value)
        made.update(constants)
        return made

    return parameters


_Read = Callable[[str], Any]  # raises RowError


def _plan_of(field: Field, schema: ParameterSchema | None, read_json: ReadJson) -> tuple[_Read | None, Any]:
    """How a field is read, None where it stays a text; and its value if it is empty, `_NOT_THERE` to leave it out."""
    expected = Expected() if schema is None else schema.places.expected_at(field.path)
    stays_text = not field.is_json and (expected.takes_any_text or not expected.is_known)
    empty: Any = _NOT_THERE
    if schema is None or schema.is_open:
        empty = "" if stays_text else _NOT_THERE
    elif expected.is_known and expected.texts is not None and "" in expected.texts:
        empty = ""
    elif schema.places.requires(field.path):
        empty = None if expected.is_known and "null" in expected.types else "" if stays_text else _NOT_THERE
    if stays_text:
        return None, empty
    where = f"column {field.column!r}"
    words = expected.in_words() if expected.is_known else "JSON"
    is_secret = bool(secret_columns([field], schema))

    def read(text: str) -> Any:
        try:
            return read_json(text.encode(), where) if field.is_json else from_text(text, expected, where)
        except UsageError as error:
            if is_json(text):  # too large, nested too deeply, a name twice
                raise RowError(str(error), field.column) from error
            found = "another text" if is_secret else f"{text!r:.60}"
            raise RowError(f"{where}: expected {words}, found {found}", field.column) from error

    return read, empty


def filled_if_empty(
    columns: Sequence[str], fields: Sequence[Field], schema: ParameterSchema | None, read_json: ReadJson
) -> dict[int, str]:
    """Where in a list of texts an empty one becomes the value of a required parameter; each with its column."""
    if schema is None:
        return {}
    return {
        columns.index(field.column): field.column
        for field in fields
        if schema.places.requires(field.path) and _plan_of(field, schema, read_json)[1] is not _NOT_THERE
    }


def object_mapper(
    fields: Sequence[Field] | None, constants: Mapping[str, Any], read_json: ReadJson, *, has_references: bool = False
) -> Mapper:
    """Parameters from an object. `fields` None: the object itself. Fields that it lacks are left out. With references,
    a constant "document.name" stands for the object's value at that name, and without fields there is nothing else."""
    references = [
        Field(column=value.removeprefix(_REFERENCE), path=(name,))
        for name, value in constants.items()
        if has_references and isinstance(value, str) and value.startswith(_REFERENCE)
    ]
    fixed = {name: value for name, value in constants.items() if name not in {field.name for field in references}}
    if fields is None and not has_references:
        return (lambda row: {**row, **fixed}) if fixed else (lambda row: row)
    wanted = [*(fields or ()), *references]

    def parameters(row: Row) -> dict[str, Any]:
        made: dict[str, Any] = {}
        for field in wanted:
            value = value_at(row, field.column)
            if value is _NOT_THERE:
                continue
            if field.is_json:
                if not isinstance(value, str):
                    raise RowError(
                        f"{field.column!r}: expected a text that holds JSON, found another value", field.column
                    )
                try:
                    value = read_json(value.encode("utf-8", "replace"), f"{field.column!r}")
                except UsageError as error:
                    raise RowError(str(error), field.column) from error
            _put(made, field.path, value)
        made.update(fixed)
        return made

    return parameters


def value_at(row: Mapping[str, Any], name: str) -> Any:
    """An object's value at a name or a dotted path; `_NOT_THERE` if it has none."""
    found = row.get(name, _NOT_THERE)
    if found is not _NOT_THERE or "." not in name:
        return found
    found = row
    for step in name.split("."):
        if isinstance(found, list) and step.isdecimal() and int(step) < len(found):
            found = found[int(step)]
        else:
            found = found.get(step, _NOT_THERE) if isinstance(found, Mapping) else _NOT_THERE
        if found is _NOT_THERE:
            break
    return found


def is_there(made: Any, field: Field) -> bool:
    """Whether the parameters have the value for a field."""
    for step in field.path:
        if not isinstance(made, dict) or step not in made:
            return False
        made = made[step]
    return True


def _put(made: dict[str, Any], path: tuple[str, ...], value: Any) -> None:
    for step in path[:-1]:
        made = made.setdefault(step, {})
    made[path[-1]] = value


def key_of_column(columns: Sequence[str] | None, column: str) -> Callable[[Row], str]:
    """A function that returns a row's unique key. Raises UsageError if the header has no such column."""
    if columns is not None:
        require_column("key_column", column, columns)
        index = columns.index(column)

        def of_list(row: Row) -> str:
            if not (value := row[index]):
                raise RowError(f"expected a unique key in column {column!r}, found nothing", column)
            return str(value)

        return of_list

    def of_object(row: Row) -> str:
        value = value_at(row, column)
        if value is _NOT_THERE or value is None or value == "":
            raise RowError(f"expected a unique key in {column!r}, found nothing", column)
        if isinstance(value, bool) or not isinstance(value, (str, int, float)):
            raise RowError(f"expected a text or a number as the unique key in {column!r}, found another value", column)
        return str(value)

    return of_object


def secret_columns(fields: Sequence[Field], schema: ParameterSchema | None) -> frozenset[str]:
    """The columns whose values are secret according to the schema."""
    found = set()
    for field in fields:
        nested: Any = "x"
        for step in reversed(field.path):
            nested = {step: nested}
        if schema is not None and schema.secrets(nested):
            found.add(field.column)
    return frozenset(found)
