"""`python -m fewstep`, for launchers such as torchrun."""

from fewstep.cli import main

if __name__ == "__main__":
    main()
