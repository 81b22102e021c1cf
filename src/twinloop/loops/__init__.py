"""Train an experiment: by Lightning (`lightning`) or by the Learner (`homemade`)."""

from typing import Literal

Loop = Literal["lightning", "homemade"]
LOOPS: tuple[Loop, Loop] = ("lightning", "homemade")
