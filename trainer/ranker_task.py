"""The former name of `trainer.ranker.task`. It will be removed after one release."""

from trainer.ranker.task import main

if __name__ == "__main__":
    raise SystemExit(main())
