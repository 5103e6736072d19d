"""What a run did, recorded while it runs and shown as one HTML page.

`recording` watches a run and keeps text, no nodes; `rows` aligns the graph before with
the graph after; `layout` places the nodes of a drawing; `page` writes the file.
Nothing here runs unless `apply` is asked to record.
"""
