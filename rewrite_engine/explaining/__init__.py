"""Why rules did not rewrite what they might have: near misses and refusals.

Nothing here runs unless it is asked for. `dialects` and `faults` say what is wrong at
one step, `nearest` searches the assignment with the fewest faults at one place,
`places` finds the places worth a look, `dry_run` asks the engine what it refuses, and
`explain` puts them together as an `Explanation`.
"""
