"""Tasks: one small file for each source of problems."""

from hogwild.eval.tasks.base import Task
from hogwild.eval.tasks.registry import TASKS, answer_tokens, find_task, load_problems

__all__ = ["TASKS", "Task", "answer_tokens", "find_task", "load_problems"]
