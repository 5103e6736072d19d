"""What is remembered of rule files from one process to the next.

An index of a large file says what each of its rules needs of a graph. `apply` then
parses, checks and compiles those rules alone that may match. An index holds no rule and
no code: whatever it says, a rule is read from the text of its file.
"""
