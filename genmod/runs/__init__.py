"""Run folders, and everything made from them.

    catalogue   finds experiments by name and loads their files
    configs     writes configurations as JSON and reads them back
    naming      identities and names of runs
    folder      paths of the files in a run folder
    record      makes and reopens run folders: record.json
    logs        writes and reads the log
    kept_sources  keeps the sources that a run was started with
    recorded    trains an experiment file in a run folder with a record
    runner      trains an experiment in a folder (with progress, watch, ending)
    loading     builds runs again and restores their states
    observe     makes observations of a GAN in training
    replay      rebuilds one step of a run
    verify      repeats the steps of a run and compares every bit
    pages       draws the report page (with gathered, explorer, comparison, pictures)
    export      writes the sampler of a run for other programs

Import the module that you need: `from genmod.runs import record`.
"""
