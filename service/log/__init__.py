"""The lake's logs as a service: who owns one, in this process or another, and how the rest reach it.

`service.log.open` makes the `storage.log.access.Logs` of an engine; `docs/design/007-log-service.md` has the reasons.
"""
