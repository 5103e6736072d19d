"""Placeholder until the real one lands."""
def retarget(nodes, moved, edges):
    return []
