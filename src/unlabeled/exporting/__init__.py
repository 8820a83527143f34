"""Give an encoder to other libraries: each file is loaded there again and must give the same features."""

from unlabeled.exporting.formats import Exported, check_format, export

__all__ = ["Exported", "check_format", "export"]
