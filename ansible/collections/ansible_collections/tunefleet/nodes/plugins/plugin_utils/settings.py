"""How the inventory says a node is reached, for lines that Ansible's own tasks cannot hold open."""

from ansible.playbook.play_context import PlayContext
from ansible.plugins.loader import become_loader, connection_loader, get_shell_plugin


class NotSsh(Exception):
    """The node is not reached by ssh with a key."""


def configured_interpreter(variables: dict) -> str | None:
    """ansible_python_interpreter where it names a program; None where Ansible was to search for one."""
    given = str(variables.get("ansible_python_interpreter") or "auto")
    return None if given.startswith("auto") else given


def ssh_command(variables: dict) -> list[str]:
    """The ssh of this host, by the same settings as Ansible's own: inventory, ansible.cfg, environment. Not its shared
    connection: that is compressed, which halves the speed, and a cut would take everything else with it."""
    kind = str(variables.get("ansible_connection") or "ssh")
    if kind not in ("ssh", "ansible.builtin.ssh", "smart"):
        raise NotSsh(f"ansible_connection is {kind}\n  fix: pushing needs ssh")
    connection = connection_loader.get("ansible.builtin.ssh", PlayContext())
    connection.set_options(var_options=variables)
    option = connection.get_option
    if option("password"):
        raise NotSsh(
            "ansible_password is set\n  fix: pushing holds a line open beside Ansible's; use a key, or an agent"
        )
    words = [str(option("ssh_executable"))]
    for setting in ("Compression=no", "BatchMode=yes", "ControlMaster=no", "ControlPath=none"):
        words += ["-o", setting]
    for setting in ("ConnectTimeout=10", "ServerAliveInterval=5", "ServerAliveCountMax=6"):
        words += ["-o", setting]
    for name in ("ssh_args", "ssh_common_args", "ssh_extra_args"):
        words += connection._split_ssh_args(option(name) or "")
    if option("host_key_checking") is False:
        words += ["-o", "StrictHostKeyChecking=no"]
    if option("port"):
        words += ["-p", str(option("port"))]
    if option("private_key_file"):
        words += ["-i", str(option("private_key_file"))]
    if option("remote_user"):
        words += ["-l", str(option("remote_user"))]
    return [*words, "-T", str(option("host") or variables["inventory_hostname"])]


def privileged(variables: dict, command: str) -> str | None:
    """The command with the rights that tunefleet_image_become asks for; None where a password had to be typed."""
    if not variables.get("tunefleet_image_become", True) or variables.get("ansible_user") == "root":
        return command
    become = become_loader.get(str(variables.get("ansible_become_method") or "sudo"))
    become.set_options(var_options=variables)
    if become.get_option("become_pass"):
        return None
    return become.build_become_command(command, get_shell_plugin(shell_type="sh"))
