"""Records that pass results between stages: train.json, export.json, push.json. The fields are a contract."""

from ..exam.fidelity import Fidelity
from ..exam.gate import Verdict
from ..fields import Record
from .export import Artifact, Examined, ExportRecord, Kind, Merge
from .push import PushRecord
from .train import AdapterRef, BaseModelRef, DataRef, ExamRef, FileRef, Lengths, TrainMetrics, TrainRecord

__all__ = [
    "AdapterRef",
    "Artifact",
    "BaseModelRef",
    "DataRef",
    "ExamRef",
    "Examined",
    "ExportRecord",
    "Fidelity",
    "FileRef",
    "Kind",
    "Lengths",
    "Merge",
    "PushRecord",
    "Record",
    "TrainMetrics",
    "TrainRecord",
    "Verdict",
]
