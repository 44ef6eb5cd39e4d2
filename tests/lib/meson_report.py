#!/usr/bin/python3
"""Turns meson's test log into verdict lines, one per case where the test tells its cases.

    meson_report.py LABEL TESTLOG.JSON

A doctest executable ends with "test cases: 12 | 12 passed | 0 failed | 0 skipped"; a script prints its own PASS, FAIL and
SKIP lines; anything else is one case. Doctest does not name the cases that passed, so those come as one line with
their number, "PASS unit/parse (12 cases)". A test that meson calls failed always yields a FAIL, also when it died before it could say so.
"""

import json
import re
import sys

DOCTEST = re.compile(r"test cases:\s*(\d+)\s*\|\s*(\d+) passed\s*\|\s*(\d+) failed\s*\|\s*(\d+) skipped")
VERDICT = re.compile(r"^(PASS|FAIL|SKIP) .*", re.MULTILINE)
COLOUR = re.compile(r"\x1b\[[0-9;]*m")


def report(label, test):
    name = f"{label}/{test['name'].split(' / ')[-1]}"
    output = COLOUR.sub("", test.get("stdout", "") + test.get("stderr", ""))
    failed = test["result"] not in ("OK", "SKIP", "EXPECTEDFAIL")
    lines = []
    if summary := DOCTEST.search(output):
        passed, bad = int(summary[2]), int(summary[3])
        lines += [f"PASS {name} ({passed} cases)"] * (passed > 0) + [f"FAIL {name} ({bad} cases)"] * (bad > 0)
    elif verdicts := list(VERDICT.finditer(output)):
        lines += [match[0].replace(" ", f" {name}/", 1) for match in verdicts]
    elif test["result"] == "SKIP":
        lines.append(f"SKIP {name}: {output.strip().splitlines()[-1] if output.strip() else 'no reason given'}")
    elif not failed:
        lines.append(f"PASS {name}")
    if failed and not any(line.startswith("FAIL") for line in lines):
        lines.append(f"FAIL {name}: {test['result'].lower()}, exit status {test['returncode']}")
    print("\n".join(lines))
    if failed:
        print("\n".join("     " + line for line in output.splitlines()))


def main():
    label, path = sys.argv[1:]
    with open(path, encoding="utf-8") as file:
        for line in file:
            report(label, json.loads(line))


if __name__ == "__main__":
    main()
