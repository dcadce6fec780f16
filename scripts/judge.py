r"""A judge: a model compares the answers of student and teacher, in both orders.

    python scripts/judge.py --student_file evaluation_results.json --teacher_file teacher.json \
        --model_name Qwen/Qwen3-30B-A3B-Instruct-2507

`python scripts/judge.py --help` lists every option.
"""

from launch import launch

if __name__ == "__main__":
    launch("judge")
