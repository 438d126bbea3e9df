"""The coordinator: a statement's stages as tasks of an `functions.invoke.Invoker`, and their rows as one answer.

1. Tasks of a stage start when all stages that they read are done; stages that do not need each other run together.
2. A task that fails for want of a worker is sent again, at most `Terms.attempts_max` times; one that fails since its
   statement is wrong, or past a limit, fails the statement at once. The first failure cancels all that runs.
3. A page that is not what was written makes the task that wrote it run again. If its rows differ then, so do all
   tasks that read them: no answer mixes rows of two runs.
4. A straggler gets a second copy; the first reply counts. Copies are a bounded share of a statement's tasks.
5. When the rows are exhausted, or closed early, nothing of the statement runs any more, and its pages are deleted.
   Those of a coordinator that was killed go when their lifetime is over (`functions.exchange.sweep_results`).
"""
