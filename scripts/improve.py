r"""Improve a student: label the inputs that it is least sure of, train on, measure; in rounds.

    python scripts/improve.py --student_path models/prompt_distillation_trl --pool my_inputs.txt

`python scripts/improve.py --help` lists every option.
"""

from launch import launch

if __name__ == "__main__":
    launch("improve")
