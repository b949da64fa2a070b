from .auditor import audit_data as audit_data
from .config import Config as Config
from .data.dataset import Dataset as Dataset
from .data.load import load_data as load_data
from .errors import HeadstartError as HeadstartError
from .inference.classifier import Classifier as Classifier
from .inference.explain import Explanations as Explanations
from .inference.predictions import Answer as Answer
from .inference.predictions import Predictions as Predictions
from .plan.table import plan_table as plan_table
from .recipes import recipe as recipe
from .report.compare import Comparison as Comparison
from .run import Run as Run
from .trainer import resume as resume
from .trainer import steps as steps
from .trainer import train as train
from .tuner import resume_tuning as resume_tuning
from .tuner import tune as tune

__all__ = [
    "Answer",
    "Classifier",
    "Comparison",
    "Config",
    "Dataset",
    "Explanations",
    "HeadstartError",
    "Predictions",
    "Run",
    "audit_data",
    "load_data",
    "plan_table",
    "recipe",
    "resume",
    "resume_tuning",
    "steps",
    "train",
    "tune",
]
