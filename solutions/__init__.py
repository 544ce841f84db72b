"""The hidden solutions, file by file as course_lib/lessons. Students' editions hold the revealed ones only."""

REVEALED: tuple[str, ...] = ()  # lessons whose solutions stand in where a student's answer is missing
