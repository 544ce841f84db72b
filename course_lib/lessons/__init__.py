"""The lessons: one module per notebook, with its contracts, the plain loops that are given, and probes.

`course_lib.catalogue` lists them.
"""
