"""A parcel into a cluster's store through the data-access pod: what is there stays, a cut goes on where it was."""

import sys
import time

from scripts.cluster.deliver_link import Link
from scripts.cluster.kubectl import Cluster, Refused
from scripts.cluster.store_client import is_absent, no_data_access
from scripts.deliver_parcel import Parcel
from scripts.transfer_view import View, amount, clock
from train.errors import InputError, problem

TRIES = 8  # in a row without a byte more
TIMES_DAMAGED = 3  # of one file
BAD_INPUT = 2  # the far end's exit status


class Delivery:
    """One parcel, over as many connections as it takes."""

    def __init__(self, cluster: Cluster, parcel: Parcel):
        self.cluster, self.parcel = cluster, parcel
        self.view: View | None = None
        self.base = 0  # bytes that were there when this connection began
        self.holder = ""
        self.damaged: dict[str, int] = {}

    def run(self) -> dict:
        """Bring it there; the far end's last word: where it lies, its manifest's hash. Raises InputError or Refused."""
        failures, best = 0, -1
        while True:
            try:
                return self.session()
            except Refused as refused:
                if is_absent(refused) and self.view is None:
                    raise no_data_access(self.cluster, refused) from refused
                if refused.status == BAD_INPUT:
                    raise
                done = self.view.done if self.view else 0
                failures, best = (0 if done > best else failures + 1), max(done, best)
                if failures >= TRIES:
                    raise
                self.tell(f"{str(refused).splitlines()[-1]}; going on")
                time.sleep(min(2**failures, 15) if failures else 0)

    def session(self) -> dict:
        """One connection."""
        link = Link(self.cluster, self.landed)
        try:
            link.say({"manifest": self.parcel.manifest, "references": self.parcel.references})
            have = self.await_survey(link)
            if "published" in have:
                return have
            verified = self.send_all(link, have["have"])
            while len(verified) < len(self.parcel.files):
                self.judge(link, link.next(), verified)
            link.say({"publish": True})
            return link.next()
        finally:
            link.close()

    def await_survey(self, link: Link) -> dict:
        """What is there already, or that it is published; says meanwhile whom it waits for."""
        while True:
            message = link.next()
            if "have" in message or "published" in message:
                return message
            if "short" in message:
                raise self.no_room(message)
            if holder := message.get("waits"):
                if holder != self.holder:
                    self.tell(f"waits: {holder} is putting the same into the store")
                self.holder = holder

    def send_all(self, link: Link, have: dict[str, int]) -> set[str]:
        """Send what is not there; the names of what is known to be right at the far end."""
        self.base = sum(have.values())
        if self.view is None:
            self.view = View(self.parcel.artifact.name, self.parcel.size, self.base)
            if self.base:
                self.tell(f"{amount(self.base)} of {amount(self.parcel.size)} are there already")
        else:
            self.view.set(self.base)
        verified: set[str] = set()
        for name in sorted(self.parcel.files, key=lambda name: self.parcel.files[name]["size"]):
            self.send(link, name, have.get(name, 0))
            for message in link.waiting():
                self.judge(link, message, verified)
        return verified

    def send(self, link: Link, name: str, offset: int) -> None:
        """One file, from where the far end's part of it ends."""
        try:
            link.send(name, self.parcel.paths[name], offset, self.parcel.files[name]["size"])
        except OSError as error:
            raise self.parcel.damaged(name, str(error)) from error

    def judge(self, link: Link, message: dict, verified: set[str]) -> None:
        """What the far end read back from its disk: right, or to be sent again."""
        if name := message.get("verified"):
            verified.add(name)
        elif name := message.get("damaged"):
            self.damaged[name] = self.damaged.get(name, 0) + 1
            if self.damaged[name] >= TIMES_DAMAGED:
                what = f"{name} came there damaged {TIMES_DAMAGED} times"
                raise Refused(f"{what}: have the link and the store's disk looked at", 1)
            entry = self.parcel.files[name]
            if link.digest_of(self.parcel.paths[name]) != entry["sha256"]:
                raise self.parcel.damaged(name, "is not what its manifest says (its sha256 differs)")
            self.tell(f"{name}: other bytes lie there than here; it is sent again")
            self.base -= entry["size"]
            self.send(link, name, 0)

    def landed(self, count: int) -> None:
        """So many bytes of this connection are on the far disk."""
        if self.view:
            self.view.set(self.base + count)

    def tell(self, text: str) -> None:
        """A line for people."""
        if self.view:
            self.view.say(text)
        else:
            print(text, file=sys.stderr)

    def no_room(self, message: dict) -> InputError:
        """What to say where the store is too full."""
        what = f"has {amount(message['free'])} free, {amount(message['short'])} too few for {self.parcel.artifact.name}"
        fix = "make models ON=cluster lists what lies there, make remove-model and make delete-run ON=cluster take away"
        return InputError(problem(f"the store of namespace {self.cluster.namespace}", "", what, fix))


def deliver_to_cluster(cluster: Cluster, parcel: Parcel) -> None:
    """Bring a parcel to the cluster's store and say what lies there now. Raises InputError or Refused."""
    delivery, began = Delivery(cluster, parcel), time.monotonic()
    try:
        last = delivery.run()
    finally:
        if delivery.view:
            delivery.view.close()
    if last.get("again"):
        print(f"{last['published']} is there already, with {len(parcel.files)} files of the right sizes")
    else:
        seconds = time.monotonic() - began
        sent = delivery.view.done - delivery.view.first
        print(f"{amount(sent)} in {clock(seconds)} ({amount(sent / seconds)}/s), read back there:")
        for name, entry in parcel.files.items():
            print(f"  {entry['sha256']}  {name}")
    print(f"sha256 of the manifest there: {last['manifest']}")
    print(f"lies at {last['published']} on the store of namespace {cluster.namespace}")
