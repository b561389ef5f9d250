"""Fine-tuning tasks. What is named here needs no torch; a task, opened by its settings, does."""

from ninscope.neurons.tasks.forecast_settings import ForecastSettings
from ninscope.neurons.tasks.settings import GlueSettings, ImageSettings, LanguageSettings, TextSettings

__all__ = ["ForecastSettings", "GlueSettings", "ImageSettings", "LanguageSettings", "TextSettings"]
