"""What editors ask about rule files, answered by the language server protocol.

`server` is the table of contents; the other modules have one job each. Only the process
that `torch_process` starts imports torch.
"""
