from __future__ import annotations

collect_ignore = ["in_paddle.py"]  # it runs where PaddlePaddle is installed
