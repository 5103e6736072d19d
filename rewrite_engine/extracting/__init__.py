"""Rules written for the user: from a part of a graph, or from two Python functions.

`spelling` finds the names that rule files have for calls and literals, `writing` puts
statements together, `selection` and `pair` are the two ways to begin.
"""
