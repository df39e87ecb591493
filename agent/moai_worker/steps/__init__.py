"""The steps of a job: one module a step, each with ``run(inputs, report) -> result``.

``inputs`` is the step's dictionary from ``plan.json``, ``report`` a ``Reporter``; the returned
dictionary (JSON values only) is kept as the step's result. A step raises ``StepError`` for causes a
person can act on. Heavy libraries are imported inside functions only.
"""
