"""What who reads a run folder does first."""

from ninscope_pipeline.live.state import is_training
from ninscope_pipeline.storing.runfolder import RunFolder


def bring_up_to_date(folder: RunFolder, figures: bool = False) -> None:
    """For who reads a run folder: where a training has recorded more than the tables hold, they are written anew.

    figures: those too. Where this process may not write, or the disk is full, what is there is read. Raises RequestError: what was
    recorded is damaged; StoreError: another process has been at it for minutes.
    """
    if is_training(folder):
        from ninscope_pipeline.live.refreshing import refresh_for_reader  # with all that makes tables

        refresh_for_reader(folder, figures)
