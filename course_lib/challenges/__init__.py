"""Challenges: open tasks that are judged by a measured score. Where one designs, and no answer is the right one."""

from course_lib.challenges.contest import Challenge, Unmet, attempt, challenge

__all__ = ["Challenge", "Unmet", "attempt", "challenge"]
