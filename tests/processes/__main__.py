"""`python -m tests.processes BACKEND --minutes 20 --seed N` plays a fault-injection account, and prints its figures."""

import argparse
import os
import secrets
import sys
import warnings
from pathlib import Path

from tests.processes.account_backends import NAMES
from tests.processes.reported import folder_of_its_own, judge, play, table


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.processes", description=__doc__)
    parser.add_argument("backend", choices=NAMES)
    length = parser.add_mutually_exclusive_group()
    length.add_argument("--minutes", type=float, default=1.0)
    length.add_argument("--seconds", type=float)
    parser.add_argument("--seed", type=int, default=secrets.randbelow(10**6))
    parser.add_argument("--keep", type=Path, help="leave logs, accounts and stories below this folder")
    parser.add_argument(
        "--again", type=Path, help="judge what was kept in this folder once more, and play nothing"
    )
    parser.add_argument("--no-headings", action="store_true", help="print the row of the table alone")
    given = parser.parse_args()
    seconds = given.seconds or 60 * given.minutes
    warnings.filterwarnings(
        "ignore", message=".*PROCESSLIST.*"
    )  # which ends sessions on old and new servers alike
    keep = None if given.keep is None else given.keep / f"{given.backend}-{given.seed}-{os.getpid()}"
    if given.again:
        report = judge(given.again)
    else:
        with folder_of_its_own(keep) as folder:
            report = play(given.backend, given.seed, seconds, folder)
    if report.judged.violations:
        print(report.summary, file=sys.stderr)
    print(table(report.row, with_headings=not given.no_headings))
    return 1 if report.judged.violations else 0


if __name__ == "__main__":
    sys.exit(main())
