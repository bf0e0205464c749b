"""The documents of a MongoDB collection as rows.

Responsible for: their form as plain JSON. Must not know: how they are used.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import orjson

from disbatch_host.client.importing.rows import BadRow
from disbatch_host.documents.records import Document
from disbatch_host.store.contract import Store
from disbatch_protocol.document import plain_document


class DocumentRows:
    """The documents of a collection as rows, in plain JSON: dates in RFC 3339, ids as 24 digits."""

    form = "documents"
    columns: tuple[str, ...] | None = None
    notices: tuple[str, ...] = ()

    def __init__(self, store: Store, collection: str, condition: Document) -> None:
        self.name = collection
        self._store = store
        self._condition = condition

    def __iter__(self) -> Iterator[tuple[int, int, Any]]:
        documents = self._store.documents_of(self.name, self._condition)
        for number, document in enumerate(documents, start=1):
            row: Any
            try:
                row = plain_document(document, other=self._plain)
            except TypeError as error:
                row = BadRow(reason=f"document {document.get('_id')}: {error}")
            yield number, len(orjson.dumps(row)) if type(row) is dict else 0, row

    def _plain(self, value: object) -> object:
        written = self._store.extended_json(value)
        return written["$oid"] if isinstance(written, dict) and written.keys() == {"$oid"} else written
