"""`python -m prompt_distillation` is the `prompt-distillation` command."""

from prompt_distillation.cli.main import main

if __name__ == "__main__":
    main()
