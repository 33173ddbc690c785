"""Documentation of the action plugin of the same name; the work is done by module_utils/node.py on the node."""

DOCUMENTATION = r"""
module: image_step
short_description: One step of bringing an image to a node
description:
  - Runs module_utils/node.py on the node. It needs Python 3.8 there and leaves no file of its own.
  - A problem on the node does not fail the task. It is returned as C(problem), so that all nodes are heard before
    anything is said.
options:
  step:
    description:
      - C(look) asks what the node is and has, and changes nothing.
      - C(clear) removes what unfinished pushes left; C(prepare) makes the directory for the layers.
      - C(bring_in) verifies the layers, imports the image under a name nobody can ask for, proves it and gives it its
        name.
      - C(remove) takes the image away.
    type: str
    required: true
    choices: [look, clear, prepare, bring_in, remove]
  image:
    description: The file on the workstation that C(make image) wrote about the image.
    type: path
    required: true
  runtime:
    description: Container runtime of the node.
    type: str
    required: true
    choices: [auto, containerd, k3s, rke2, docker, crio, podman]
  directory:
    description: Where layers lie on the node until they are imported.
    type: path
    required: true
  user:
    description: Who writes the layers there, for C(prepare).
    type: str
  missing:
    description: Digests of the layers that were brought, for C(bring_in).
    type: list
    elements: str
  force:
    description: Whether C(remove) takes the image away although containers use it.
    type: bool
    default: false
author: tunefleet
attributes:
  check_mode:
    description: Says what it would change.
    support: full
"""

EXAMPLES = r"""
- name: Ask every node what it is and has
  tunefleet.nodes.image_step:
    step: look
    image: build/image.json
    runtime: auto
    directory: /var/lib/tunefleet
  register: look
"""

RETURN = r"""
runtime:
  description: Kind of the container runtime.
  type: str
  returned: when it answered
has:
  description: Whether the node holds the whole image under its name and digest.
  type: bool
  returned: look, bring_in
missing:
  description: Digests of the layers it lacks.
  type: list
  returned: look
problem:
  description: What a person has to mend, and how.
  type: str
  returned: when there is one
"""
