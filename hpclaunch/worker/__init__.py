"""The processes inside a job: a supervisor, and the workers that run tasks. Imports as little as it can."""
