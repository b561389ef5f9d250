"""A diffusers pipeline: a folder with model_index.json, whose denoising model lies in unet/ or transformer/."""

from collections.abc import Callable

PIPELINE_NAME = "model_index.json"
MODEL_FOLDERS = ("unet", "transformer")


def model_folder(has: Callable[[str], bool], stepped: bool = False) -> str:
    """The subfolder whose checkpoint is meant by a folder that is a pipeline; "" where the folder is meant itself.

    has: whether a file is there, by its path in the folder. stepped: its name states a step; such a folder, which a trainer
    wrote, needs no model_index.json to be a pipeline.
    """
    if has("config.json") or not (stepped or has(PIPELINE_NAME)):
        return ""
    return next((name for name in MODEL_FOLDERS if has(f"{name}/config.json")), "")
