"""How the platform says no: an HTTP status, and a code with its arguments that words and the REFUSAL body tell."""

from __future__ import annotations

from typing import Any

from protocols.errors import Problem, TallystickError


class RefusalError(Exception):
    """A request that is not done, with nothing changed."""

    def __init__(self, status: int, problem: Problem) -> None:
        self.status = status
        self.problem = problem
        super().__init__(f"{status}: {problem.where}: {problem.code} {dict(problem.args)}")

    @staticmethod
    def of(status: int, where: str, code: str, /, **args: object) -> RefusalError:
        """Build a refusal."""
        return RefusalError(status, Problem.of(where, code, **args))

    @staticmethod
    def because(status: int, error: TallystickError) -> RefusalError:
        """Build a refusal from the first problem of an error of ours."""
        return RefusalError(status, error.problems[0])


class ConflictError(Exception):
    """409: the gateway's log and the platform's differ. `answer` is a SIZE_ANSWER."""

    def __init__(self, answer: dict[str, Any]) -> None:
        self.answer = answer
        super().__init__(f"the platform holds {answer['size']} entries")
