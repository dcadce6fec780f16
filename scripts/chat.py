"""Talk to the teacher, with its prompt, and to the student, without: side by side.

    python scripts/chat.py --task tasks/persona --student_path models/persona
    python scripts/chat.py --question "Where were you born?"

`python scripts/chat.py --help` lists every option.
"""

from launch import launch

if __name__ == "__main__":
    launch("chat")
