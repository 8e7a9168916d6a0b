"""The main program of the Flex Template.

The code is in `runner_configs.dataflow.night`, because workers can import a module but not the main program.
"""

from runner_configs.dataflow.night import main

if __name__ == "__main__":
    main()
