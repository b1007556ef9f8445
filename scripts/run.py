"""The main job: python scripts/run.py perturbation=blur_median lambda_tv=0.2; --help is the menu."""

from mpx.cli.main import main

if __name__ == "__main__":
    main()
