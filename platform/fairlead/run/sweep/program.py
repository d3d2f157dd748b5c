"""The process of one rank of a trial, as a program: forked warm, or executed by an interpreter of its own."""

from fairlead.run.sweep.trial import main

if __name__ == "__main__":
    main()
