"""What is remembered of rule files from one process to the next.

An index of a large file says what each of its rules needs of a graph. `apply` then
parses, checks and compiles those rules alone that may match. An index holds no rule and
no code: whatever it says, a rule is read from the text of its file.

What rules do is the same with it. Only a report may count a candidate more or less: how
far above a change nodes are asked again depends on all rules that are there.
"""
