"""What a Flex Template starts. What workers need is in a module that they import: here it would be the main program."""

from runner_configs.dataflow.night import main

if __name__ == "__main__":
    main()
