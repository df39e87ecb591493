"""What a training needs, from a model's ``config.json`` alone: arithmetic and a table, no I/O.

``parameters`` counts, ``memory`` turns counts into bytes, ``guide`` holds what the platform's vendor
published, ``flavors`` the sizes of an accelerator, ``plan`` puts them together. Every figure says
where it comes from: ``guide``, ``arithmetic``, ``no data`` or ``given``. Pure functions on Python 3.8; who reads
files, asks the Hub and looks at the disk is ``moai_agent.needs``.
"""

from moai_agent.sizing.parameters import Counts, Shape, count, read_shape
from moai_agent.sizing.plan import Figure, Needs, Question, answer

__all__ = ["Counts", "Figure", "Needs", "Question", "Shape", "answer", "count", "read_shape"]
