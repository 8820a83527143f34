"""Give an encoder to other libraries: each file is loaded there again and must give the same features."""

from unlabeled.exporting.formats import Exported, export

__all__ = ["Exported", "export"]
