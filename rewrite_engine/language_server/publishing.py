"""Findings about rule files as diagnostics of the protocol."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import attrs
from lsprotocol import types

from rewrite_engine.assets import grammar_directory
from rewrite_engine.dsl.codes import codes
from rewrite_engine.errors import Diagnostic
from rewrite_engine.language_server.documents import Document, Documents, location

_UNUSED = "W201"


@attrs.define(eq=False)
class Board:
    """What was last published: findings by document checked, then by file found in.

    A file that is open answers for itself; what users of a file find in it is shown
    only while it is not open.
    """

    documents: Documents
    _found: dict[str, Mapping[str, list[types.Diagnostic]]] = attrs.field(factory=dict)

    def put(self, document: Document) -> list[types.PublishDiagnosticsParams]:
        """Take over the findings of a document; what is to be published."""
        found: dict[str, list[types.Diagnostic]] = {document.uri: []}
        for finding in document.examination.findings:
            uri = self.documents.uri_of(finding.source)
            found.setdefault(uri, []).append(_diagnostic(finding, self.documents))
        return self._replace(document.uri, found, document.version)

    def remove(self, uri: str) -> list[types.PublishDiagnosticsParams]:
        """Drop the findings of a document that is closed."""
        return self._replace(uri, {}, None)

    def _replace(
        self,
        uri: str,
        found: Mapping[str, list[types.Diagnostic]],
        version: int | None,
    ) -> list[types.PublishDiagnosticsParams]:
        before = self._found.pop(uri, {})
        if found:
            self._found[uri] = found
        return [
            types.PublishDiagnosticsParams(
                each, self._shown(each), version if each == uri else None
            )
            for each in dict.fromkeys((*found, *before))
        ]

    def _shown(self, uri: str) -> list[types.Diagnostic]:
        if uri in self._found:
            return self._found[uri][uri]
        shown: list[types.Diagnostic] = []
        for found in self._found.values():
            shown += [each for each in found.get(uri, []) if each not in shown]
        return shown


def _diagnostic(finding: Diagnostic, documents: Documents) -> types.Diagnostic:
    remarks = [note.message for note in finding.notes if note.span is None]
    hints = [f"hint: {finding.hint}"] if finding.hint else []
    severity = types.DiagnosticSeverity
    is_unused = finding.code == _UNUSED
    return types.Diagnostic(
        documents.range(finding.source, finding.span),
        "\n".join([finding.message, *remarks, *hints]),
        severity.Error if finding.is_error else severity.Warning,
        finding.code,
        types.CodeDescription(page_uri(finding.code)),
        "rewrite-engine",
        [types.DiagnosticTag.Unnecessary] if is_unused else None,
        [
            types.DiagnosticRelatedInformation(
                location(documents, note.source or finding.source, note.span),
                note.message,
            )
            for note in finding.notes
            if note.span is not None
        ],
    )


def page_uri(code: str) -> str:
    """The address of the page that explains a code."""
    page: Path = grammar_directory() / "errors.md"
    name = codes()[code].name if code in codes() else ""
    return f"{page.as_uri()}#{code.lower()}-{name}"
