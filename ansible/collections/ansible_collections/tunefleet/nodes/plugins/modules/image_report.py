"""Documentation of the action plugin of the same name; the work is done by plugin_utils/outcome.py and table.py."""

DOCUMENTATION = r"""
module: image_report
short_description: Say for all nodes at once how they stand
description:
  - Runs once for all nodes and prints a table, and below it every problem with its fix.
options:
  stage:
    description: Which question the table answers.
    type: str
    required: true
    choices: [plan, push, check, remove]
  image:
    description: The file on the workstation that C(make image) wrote about the image.
    type: path
    required: true
  steps:
    description: Names of the registered results to look at, in the order they happened.
    type: list
    elements: str
    required: true
  result:
    description: Write the same as JSON to this file; empty writes none.
    type: path
author: tunefleet
attributes:
  check_mode:
    description: Prints what would happen.
    support: full
"""

EXAMPLES = r"""
- name: Report
  tunefleet.nodes.image_report:
    stage: check
    image: build/image.json
    steps: [look]
  run_once: true
"""

RETURN = r"""
problems:
  description: What went wrong, by host name.
  type: dict
  returned: always
"""
