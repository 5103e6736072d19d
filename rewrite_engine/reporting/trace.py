"""What a run did as JSON values, for programs."""

from __future__ import annotations

from typing import Any

from rewrite_engine.report import Report
from rewrite_engine.reporting.recording import Rewrite


def trace(report: Report, rewrites: tuple[Rewrite, ...]) -> dict[str, Any]:
    """Counts by rule, every rewrite in order, every refusal; times in seconds."""
    return {
        "seconds": report.seconds,
        "rules": [
            {
                "name": rule.name,
                "candidates": rule.candidates,
                "rewrites": rule.matches,
                "refusals": len(rule.refusals),
                "seconds": rule.seconds,
            }
            for rule in report.rules
        ],
        "rewrites": [
            {
                "number": rewrite.number,
                "rule": rewrite.rule,
                "place": rewrite.place,
                "node": rewrite.anchor,
                "removed": list(rewrite.removed),
                "created": list(rewrite.created),
            }
            for rewrite in rewrites
        ],
        "refused": [
            {"rule": refusal.rule, "node": refusal.node, "reason": refusal.reason}
            for refusal in report.refusals
        ],
    }
