"""hfplug: parameter-efficient fine-tuning for any Hugging Face Trainer script.

The public names are loaded on first use, so that ``import hfplug`` costs milliseconds and not the seconds of torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

# Public name -> the module that defines it. __all__, dir() and the tests are derived from it.
_PUBLIC = {
    "AdapterDir": "hfplug.adapters.adapter_dir",
    "AdapterEntry": "hfplug.hub.catalogue",
    "AdapterError": "hfplug.errors",
    "Answer": "hfplug.serving.asked",
    "Asked": "hfplug.serving.asked",
    "BaseModelError": "hfplug.errors",
    "BatchingDecision": "hfplug.serving.info",
    "BitFit": "hfplug.methods",
    "Bottleneck": "hfplug.methods",
    "CompareSettings": "hfplug.comparison.compare_settings",
    "DataError": "hfplug.errors",
    "Decoding": "hfplug.serving.decoding",
    "Dora": "hfplug.methods",
    "Embeddings": "hfplug.methods",
    "Extracted": "hfplug.adapters.extract",
    "Exported": "hfplug.serving.export",
    "Full": "hfplug.methods",
    "HfplugError": "hfplug.errors",
    "HubAccessError": "hfplug.errors",
    "HubConflictError": "hfplug.errors",
    "HubError": "hfplug.errors",
    "HubNotFoundError": "hfplug.errors",
    "HubPushCallback": "hfplug.training.push",
    "HubQuotaError": "hfplug.errors",
    "HubRejectedError": "hfplug.errors",
    "HubUnavailableError": "hfplug.errors",
    "IA3": "hfplug.methods",
    "Inspection": "hfplug.adapters.inspect",
    "Limits": "hfplug.serving.info",
    "Lock": "hfplug.adapters.lock",
    "Lora": "hfplug.methods",
    "MemoryPlan": "hfplug.models.memory_plan",
    "MergePlan": "hfplug.adapters.merge",
    "Merged": "hfplug.adapters.merge",
    "MethodArguments": "hfplug.training.arguments",
    "MethodError": "hfplug.errors",
    "MethodMemory": "hfplug.models.memory_method",
    "MismatchError": "hfplug.errors",
    "MissingExtraError": "hfplug.errors",
    "Norms": "hfplug.methods",
    "Outbox": "hfplug.hub.outbox",
    "OutboxError": "hfplug.errors",
    "PTuning": "hfplug.methods",
    "Pair": "hfplug.adapters.inspect_pair",
    "Piece": "hfplug.serving.asked",
    "PrefixTuning": "hfplug.methods",
    "Preprocessor": "hfplug.training.preprocess",
    "Preview": "hfplug.hub.push",
    "ProbeResult": "hfplug.adapters.probe",
    "PromptTuning": "hfplug.methods",
    "Pulled": "hfplug.hub.pull",
    "QLora": "hfplug.methods",
    "QueueFullError": "hfplug.errors",
    "Record": "hfplug.adapters.record",
    "Report": "hfplug.comparison.variants",
    "RunFigures": "hfplug.training.meter",
    "Sent": "hfplug.hub.send",
    "Service": "hfplug.serving.service",
    "ServiceMemory": "hfplug.serving.info",
    "ServingError": "hfplug.errors",
    "SettingError": "hfplug.errors",
    "SpaceError": "hfplug.errors",
    "StepSettings": "hfplug.models.memory_method",
    "StudyError": "hfplug.errors",
    "StudySettings": "hfplug.comparison.study_settings",
    "Task": "hfplug.adapters.task",
    "TopLayers": "hfplug.methods",
    "TrainingError": "hfplug.errors",
    "TuningMethod": "hfplug.methods",
    "UnsafeFileError": "hfplug.errors",
    "VariantInfo": "hfplug.serving.info",
    "VariantSource": "hfplug.comparison.compare_settings",
    "adapter_callbacks": "hfplug.training.callbacks",
    "advised_learning_rate": "hfplug.training.guard",
    "apply_method": "hfplug.models.factory",
    "build_model": "hfplug.models.factory",
    "compare_adapters": "hfplug.comparison.compare",
    "export_adapter": "hfplug.serving.export",
    "extract_adapter": "hfplug.adapters.extract",
    "find_adapters": "hfplug.hub.catalogue",
    "flush_outbox": "hfplug.hub.deliver",
    "generate_texts": "hfplug.serving.generate",
    "get_method": "hfplug.methods",
    "inspect_adapter": "hfplug.adapters.inspect",
    "inspect_pair": "hfplug.adapters.inspect_pair",
    "last_whole_checkpoint": "hfplug.training.checkpoints",
    "load_adapter": "hfplug.adapters.load",
    "load_data": "hfplug.training.sources",
    "load_from_hub": "hfplug.hub.pull",
    "make_collator": "hfplug.training.collate",
    "make_method_arguments": "hfplug.training.arguments",
    "merge_adapter": "hfplug.adapters.merge",
    "merge_adapters": "hfplug.adapters.merge",
    "merged_in_place": "hfplug.adapters.merge_loaded",
    "method_names": "hfplug.methods",
    "methods_for": "hfplug.models.applicable",
    "plan_memory": "hfplug.models.memory_plan",
    "plan_merge": "hfplug.adapters.merge",
    "plug": "hfplug.training.plug",
    "preview_push": "hfplug.hub.push",
    "pull_adapter": "hfplug.hub.pull",
    "push_adapter": "hfplug.hub.push",
    "read_report": "hfplug.comparison.report",
    "register_method": "hfplug.methods",
    "register_peft_types": "hfplug.methods",
    "render_table": "hfplug.comparison.table",
    "run_study": "hfplug.comparison.study",
    "verify_adapter": "hfplug.adapters.load",
}

__all__ = ["__version__", *_PUBLIC]


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'hfplug' has no attribute {name!r}")
    value = getattr(importlib.import_module(_PUBLIC[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_PUBLIC})


if TYPE_CHECKING:
    from hfplug.adapters.adapter_dir import AdapterDir as AdapterDir
    from hfplug.adapters.extract import Extracted as Extracted
    from hfplug.adapters.extract import extract_adapter as extract_adapter
    from hfplug.adapters.inspect import Inspection as Inspection
    from hfplug.adapters.inspect import inspect_adapter as inspect_adapter
    from hfplug.adapters.inspect_pair import Pair as Pair
    from hfplug.adapters.inspect_pair import inspect_pair as inspect_pair
    from hfplug.adapters.load import load_adapter as load_adapter
    from hfplug.adapters.load import verify_adapter as verify_adapter
    from hfplug.adapters.lock import Lock as Lock
    from hfplug.adapters.merge import Merged as Merged
    from hfplug.adapters.merge import MergePlan as MergePlan
    from hfplug.adapters.merge import merge_adapter as merge_adapter
    from hfplug.adapters.merge import merge_adapters as merge_adapters
    from hfplug.adapters.merge import plan_merge as plan_merge
    from hfplug.adapters.merge_loaded import merged_in_place as merged_in_place
    from hfplug.adapters.probe import ProbeResult as ProbeResult
    from hfplug.adapters.record import Record as Record
    from hfplug.adapters.task import Task as Task
    from hfplug.comparison.compare import compare_adapters as compare_adapters
    from hfplug.comparison.compare_settings import CompareSettings as CompareSettings
    from hfplug.comparison.compare_settings import VariantSource as VariantSource
    from hfplug.comparison.report import read_report as read_report
    from hfplug.comparison.study import run_study as run_study
    from hfplug.comparison.study_settings import StudySettings as StudySettings
    from hfplug.comparison.table import render_table as render_table
    from hfplug.comparison.variants import Report as Report
    from hfplug.errors import AdapterError as AdapterError
    from hfplug.errors import BaseModelError as BaseModelError
    from hfplug.errors import DataError as DataError
    from hfplug.errors import HfplugError as HfplugError
    from hfplug.errors import HubAccessError as HubAccessError
    from hfplug.errors import HubConflictError as HubConflictError
    from hfplug.errors import HubError as HubError
    from hfplug.errors import HubNotFoundError as HubNotFoundError
    from hfplug.errors import HubQuotaError as HubQuotaError
    from hfplug.errors import HubRejectedError as HubRejectedError
    from hfplug.errors import HubUnavailableError as HubUnavailableError
    from hfplug.errors import MethodError as MethodError
    from hfplug.errors import MismatchError as MismatchError
    from hfplug.errors import MissingExtraError as MissingExtraError
    from hfplug.errors import OutboxError as OutboxError
    from hfplug.errors import QueueFullError as QueueFullError
    from hfplug.errors import ServingError as ServingError
    from hfplug.errors import SettingError as SettingError
    from hfplug.errors import SpaceError as SpaceError
    from hfplug.errors import StudyError as StudyError
    from hfplug.errors import TrainingError as TrainingError
    from hfplug.errors import UnsafeFileError as UnsafeFileError
    from hfplug.hub.catalogue import AdapterEntry as AdapterEntry
    from hfplug.hub.catalogue import find_adapters as find_adapters
    from hfplug.hub.deliver import flush_outbox as flush_outbox
    from hfplug.hub.outbox import Outbox as Outbox
    from hfplug.hub.pull import Pulled as Pulled
    from hfplug.hub.pull import load_from_hub as load_from_hub
    from hfplug.hub.pull import pull_adapter as pull_adapter
    from hfplug.hub.push import Preview as Preview
    from hfplug.hub.push import preview_push as preview_push
    from hfplug.hub.push import push_adapter as push_adapter
    from hfplug.hub.send import Sent as Sent
    from hfplug.methods import IA3 as IA3
    from hfplug.methods import BitFit as BitFit
    from hfplug.methods import Bottleneck as Bottleneck
    from hfplug.methods import Dora as Dora
    from hfplug.methods import Embeddings as Embeddings
    from hfplug.methods import Full as Full
    from hfplug.methods import Lora as Lora
    from hfplug.methods import Norms as Norms
    from hfplug.methods import PrefixTuning as PrefixTuning
    from hfplug.methods import PromptTuning as PromptTuning
    from hfplug.methods import PTuning as PTuning
    from hfplug.methods import QLora as QLora
    from hfplug.methods import TopLayers as TopLayers
    from hfplug.methods import TuningMethod as TuningMethod
    from hfplug.methods import get_method as get_method
    from hfplug.methods import method_names as method_names
    from hfplug.methods import register_method as register_method
    from hfplug.methods import register_peft_types as register_peft_types
    from hfplug.models.applicable import methods_for as methods_for
    from hfplug.models.factory import apply_method as apply_method
    from hfplug.models.factory import build_model as build_model
    from hfplug.models.memory_method import MethodMemory as MethodMemory
    from hfplug.models.memory_method import StepSettings as StepSettings
    from hfplug.models.memory_plan import MemoryPlan as MemoryPlan
    from hfplug.models.memory_plan import plan_memory as plan_memory
    from hfplug.serving.asked import Answer as Answer
    from hfplug.serving.asked import Asked as Asked
    from hfplug.serving.asked import Piece as Piece
    from hfplug.serving.decoding import Decoding as Decoding
    from hfplug.serving.export import Exported as Exported
    from hfplug.serving.export import export_adapter as export_adapter
    from hfplug.serving.generate import generate_texts as generate_texts
    from hfplug.serving.info import BatchingDecision as BatchingDecision
    from hfplug.serving.info import Limits as Limits
    from hfplug.serving.info import ServiceMemory as ServiceMemory
    from hfplug.serving.info import VariantInfo as VariantInfo
    from hfplug.serving.service import Service as Service
    from hfplug.training.arguments import MethodArguments as MethodArguments
    from hfplug.training.arguments import make_method_arguments as make_method_arguments
    from hfplug.training.callbacks import adapter_callbacks as adapter_callbacks
    from hfplug.training.checkpoints import last_whole_checkpoint as last_whole_checkpoint
    from hfplug.training.collate import make_collator as make_collator
    from hfplug.training.guard import advised_learning_rate as advised_learning_rate
    from hfplug.training.meter import RunFigures as RunFigures
    from hfplug.training.plug import plug as plug
    from hfplug.training.preprocess import Preprocessor as Preprocessor
    from hfplug.training.push import HubPushCallback as HubPushCallback
    from hfplug.training.sources import load_data as load_data
