"""Run folders, and all that is made of them.

    catalogue   finds experiments by name and loads their files
    configs     writes configurations down and reads them back
    record      the run folder: record.json, the log, the places of all else
    starts      the sources that a run was started with
    runner      trains an experiment in a run folder
    observe     observations of a GAN in training
    replay      takes one step of a run again
    verify      takes the steps of a run again and compares every bit
    pages       draws the report page
    export      writes the sampler of a run for other programs

Import the module that you need: `from genmod.runs import record`.
"""
