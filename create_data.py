"""Step 1: label inputs with the teacher.

On one machine with GPUs, with the defaults of the language task::

    python create_data.py --tensor_parallel_size 4

On eight H100s, two teachers side by side::

    bash create_data_h100x8.sh

On the machines of a Ray cluster, from one that is part of it::

    python create_data.py --tensor_parallel_size 4 --ray_address auto

Without a GPU, with the tiny example teacher::

    python create_data.py --config recipes/cpu-example-create-data.yaml
"""

from scripts.launch import launch

if __name__ == "__main__":
    launch("create-data")
