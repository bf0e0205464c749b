"""Rows of files: what the readers of CSV and NDJSON make of all that files hold."""

from __future__ import annotations

import csv
import gzip
import io
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from disbatch_host.client.importing.rows import BadRow, CsvRows, Format, NdjsonRows, Source, format_of
from disbatch_host.client.parameters import parse_json
from disbatch_host.errors import UsageError


def source(tmp_path: Path, content: bytes) -> Source:
    path = tmp_path / "file"
    path.write_bytes(content)
    return Source(path.open("rb"))


def csv_rows(tmp_path: Path, content: bytes, delimiter: str = ",", **bounds: int) -> list[tuple[int, Any]]:
    return [(line, row) for line, _, row in CsvRows("f", source(tmp_path, content), delimiter, **bounds)]


def ndjson_rows(tmp_path: Path, content: bytes, **bounds: int) -> list[tuple[int, Any]]:
    return [(line, row) for line, _, row in NdjsonRows("f", source(tmp_path, content), parse_json, **bounds)]


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"])
@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
def test_every_end_of_line_and_a_byte_order_mark_are_understood(tmp_path: Path, end: bytes, mark: bytes) -> None:
    content = mark + end.join([b"a,b", b"1,2", b"", b'"x', b'y",', b"3,4"])
    found = CsvRows("f", source(tmp_path, content), ",")
    assert found.columns == ("a", "b")
    assert [(line, row) for line, _, row in found] == [
        (2, ["1", "2"]), (4, [f"x{end.decode()}y", ""]), (6, ["3", "4"]),
    ]  # fmt: skip


def test_quotes_hold_delimiters_quotes_and_line_ends(tmp_path: Path) -> None:
    content = b'a,b\n"1,1","say ""hi"""\n"two\nlines",\xc3\xa4\n'
    assert csv_rows(tmp_path, content) == [(2, ["1,1", 'say "hi"']), (3, ["two\nlines", "ä"])]


def test_what_is_no_row_is_said_in_its_place_and_the_rows_after_it_are_read(tmp_path: Path) -> None:
    found = csv_rows(tmp_path, b'a,b\n1\n1,2,3\n\xff,2\n"x"y,2\n5,6\n"open,7\n')
    assert [line for line, _ in found] == [2, 3, 4, 5, 6, 7]
    reasons = [row.reason if isinstance(row, BadRow) else row for _, row in found]
    assert reasons == [
        "expected 2 fields, as the header has, found 1",
        "expected 2 fields, as the header has, found 3",
        "expected UTF-8, found byte 0xff; is the file in another encoding? (iconv -f latin1 -t utf-8)",
        'text follows the closing double quote of a field; write "" for a double quote inside a field',
        ["5", "6"],
        "a field begins with a double quote that is never closed",
    ]


def test_a_line_or_field_beyond_the_bound_is_a_fault_of_its_own(tmp_path: Path) -> None:
    try:
        content = b"a\n" + b"x" * 1000 + b'\n1\n"' + b"y\n" * 80 + b'"\n2\n'
        found = csv_rows(tmp_path, content, row_max=100)
    finally:
        csv.field_size_limit(2**17)
    assert [row.reason for line, row in found if line == 2] == ["expected lines of at most 100 characters"]
    assert found[1] == (3, ["1"])
    assert found[2][0] == 4 and "fields of at most 100 characters" in found[2][1].reason
    assert found[-1][1] == ["2"] or isinstance(found[-1][1], BadRow)  # the stray quote has opened another field
    lines = ndjson_rows(tmp_path, b'{"a": "' + b"x" * 1000 + b'"}\n{"b": 1}\n', row_max=100)
    assert lines[0][1].reason == "expected lines of at most 100 bytes" and lines[1] == (2, {"b": 1})


def test_ndjson_passes_over_empty_lines_and_says_what_is_no_object(tmp_path: Path) -> None:
    found = ndjson_rows(tmp_path, b'\xef\xbb\xbf{"a": 1}\r\n\n[1]\nnope\n{"n": 12345678901234567890123}\n{"b": 2}')
    assert found[0] == (1, {"a": 1}) and found[-1] == (6, {"b": 2})
    reasons = {line: row.reason for line, row in found[1:-1]}
    assert "found a list" in reasons[3] and "not valid JSON" in reasons[4] and "at most 64 bits" in reasons[5]


def test_a_source_is_read_again_from_its_start_packed_or_not(tmp_path: Path) -> None:
    content = b"a\n" + b"".join(b"%d\n" % number for number in range(50_000))
    for data in (content, gzip.compress(content)):
        found = CsvRows("f", source(tmp_path, data), ",")
        assert [row for _, _, row in found] == [row for _, _, row in found]
        assert sum(1 for _ in found) == 50_000


def test_a_file_that_is_cut_or_in_another_encoding_is_refused_as_a_whole(tmp_path: Path) -> None:
    packed = gzip.compress(b"a\n" + bytes(str(list(range(200_000))), "ascii").replace(b" ", b"\n"))
    with pytest.raises(UsageError, match="it cannot be read after line"):
        csv_rows(tmp_path, packed[: len(packed) // 2])
    with pytest.raises(UsageError, match="found UTF-16"):
        csv_rows(tmp_path, "a,b\n1,2\n".encode("utf-16"))
    with pytest.raises(UsageError, match="found UTF-16"):
        ndjson_rows(tmp_path, '{"a": 1}\n'.encode("utf-16"))
    with pytest.raises(UsageError, match="expected a header line"):
        csv_rows(tmp_path, b"\n\n")
    with pytest.raises(UsageError, match="f:1: expected a header line, but expected UTF-8"):
        csv_rows(tmp_path, b"a,\xff\n")


def test_a_source_says_that_somebody_has_written_to_its_file(tmp_path: Path) -> None:
    found = source(tmp_path, b"a\n1\n")
    assert not found.has_changed()
    with (tmp_path / "file").open("ab") as file:
        file.write(b"2\n")
    assert found.has_changed()


@pytest.mark.parametrize(
    ("name", "first", "expected"),
    [
        ("a.csv", b"", Format.CSV), ("A.TSV.gz", b"", Format.CSV), ("a.ndjson", b"x", Format.NDJSON),
        ("a.jsonl.gz", b"", Format.NDJSON), ("stdin", b' \n{"a"', Format.NDJSON), ("a.txt", b"a,b", None),
        ("stdin", b"\xef\xbb\xbf{", Format.NDJSON), ("stdin", b"", None), ("a.csv", b"{", Format.CSV),
    ],
)  # fmt: skip
def test_the_name_tells_the_format_else_the_first_byte(name: str, first: bytes, expected: Format | None) -> None:
    assert format_of(name, first) == expected


_TEXTS = st.text(st.characters(blacklist_categories=("Cs",), blacklist_characters="\r\x00"), max_size=8)


@given(table=st.lists(st.lists(_TEXTS, min_size=2, max_size=2), max_size=8), delimiter=st.sampled_from(",;\t|"))
def test_whatever_csv_another_program_writes_comes_back(
    tmp_path_factory: pytest.TempPathFactory, table: list[list[str]], delimiter: str
) -> None:
    text = io.StringIO(newline="")
    csv.writer(text, delimiter=delimiter, quoting=csv.QUOTE_ALL).writerows([["one", "two"], *table])
    path = tmp_path_factory.mktemp("csv")
    found = csv_rows(path, text.getvalue().encode(), delimiter)
    assert [row for _, row in found] == table
