"""Texts probed for what automatic scores miss: character, pressure, perplexity, forgetting.

    python scripts/probe.py --task tasks/persona --test_file inputs.txt
    python scripts/probe.py --probes perplexity,forgetting

`python scripts/probe.py --help` lists every option.
"""

from launch import launch

if __name__ == "__main__":
    launch("probe")
