"""Settings: declared once, checked, and the same as flags, YAML keys and keyword arguments.

The blocks that commands share are in ``settings``; each step has a module with its own.
"""

from prompt_distillation.config.settings import (
    Dtype,
    Duplicates,
    EngineConfig,
    EngineKind,
    InputConfig,
    ModelConfig,
    SamplingConfig,
    Setting,
    Settings,
    TokenPriceConfig,
    block,
    build_config,
    check_range,
    convert,
    flat,
    listed,
    option,
    plain_type,
    settings_of,
    share,
    split_settings,
    unknown_name,
)

__all__ = [
    "Dtype",
    "Duplicates",
    "EngineConfig",
    "EngineKind",
    "InputConfig",
    "ModelConfig",
    "SamplingConfig",
    "Setting",
    "Settings",
    "TokenPriceConfig",
    "block",
    "build_config",
    "check_range",
    "convert",
    "flat",
    "listed",
    "option",
    "plain_type",
    "settings_of",
    "share",
    "split_settings",
    "unknown_name",
]
