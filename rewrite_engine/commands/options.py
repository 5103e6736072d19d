"""Options that several commands share."""

from __future__ import annotations

import argparse


def add_trust_pickle(parser: argparse.ArgumentParser) -> None:
    """`--trust-pickle`: what a `.pt2` file pickles is loaded unseen."""
    parser.add_argument(
        "--trust-pickle",
        action="store_true",
        help="load a model even if that may run code stored in it",
    )
