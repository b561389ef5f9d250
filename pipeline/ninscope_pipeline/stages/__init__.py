"""The stages of a run, one module each: a function that reads its inputs from artefacts and writes one artefact."""
