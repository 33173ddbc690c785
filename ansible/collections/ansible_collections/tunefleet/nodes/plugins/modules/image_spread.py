"""Documentation of the action plugin of the same name; the work is done by plugin_utils/spread.py and
module_utils/agent.py.
"""

DOCUMENTATION = r"""
module: image_spread
short_description: Spread the missing layers of an image over many nodes
description:
  - Runs once for all nodes. Starts an agent on each over ssh, feeds the first, and lets them pass the layers on.
  - The agents listen on one TCP port each while this task runs, and only give, to whoever knows the token of this push.
  - Where nodes cannot reach each other, the workstation feeds each of them.
  - Needs ssh with a key. Prints its progress.
options:
  image:
    description: The file on the workstation that C(make image) wrote about the image.
    type: path
    required: true
  directory:
    description: Where layers lie on the nodes until they are imported.
    type: path
    required: true
  port:
    description: Port of the agents; 0 takes any free one.
    type: int
    required: true
  patience:
    description: Seconds without a byte after which a node is given up.
    type: float
    required: true
  leave_behind:
    description: Whether to end when only stragglers are left, 10 seconds and a quarter of the time after the others.
    type: bool
    required: true
  nodes:
    description: What P(tunefleet.nodes.image_step#module) with C(step=look) returned, by host name.
    type: dict
    required: true
  only:
    description: Host names to serve; all where it is not given.
    type: list
    elements: str
author: tunefleet
attributes:
  check_mode:
    description: Does nothing.
    support: full
"""

EXAMPLES = r"""
- name: Spread the missing layers over all nodes
  tunefleet.nodes.image_spread:
    image: build/image.json
    directory: /var/lib/tunefleet
    port: 0
    patience: 60
    leave_behind: true
    nodes: "{{ dict(ansible_play_hosts | zip(ansible_play_hosts | map('extract', hostvars, 'look'))) }}"
  run_once: true
"""

RETURN = r"""
nodes:
  description: For each node whether it has everything now (done), fell behind, its problem, bytes received and seconds.
  type: dict
  returned: always
"""
