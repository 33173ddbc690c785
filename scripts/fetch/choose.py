"""Which files of a repository are fetched: what training reads, in one format, and the licence; no code, no pickles."""

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import PurePosixPath

from scripts.transfer_view import amount
from train.errors import InputError, problem
from train.stored import MANIFEST

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
# What transformers reads beside the weights; all lies at the root but further chat templates.
MODEL_FILES = re.compile(
    r"(config|generation_config|tokenizer|tokenizer_config|special_tokens_map|added_tokens|vocab|preprocessor_config"
    r"|processor_config|chat_template)\.json|tokenizer\.model(\.v\d+)?|.*\.tiktoken|tiktoken\.model|spiece\.model"
    r"|sentencepiece\.bpe\.model|source\.spm|target\.spm|vocab\.txt|merges\.txt|chat_template\.jinja"
    r"|additional_chat_templates/[^/]+\.jinja"
)
WORDS = re.compile(r"(README|LICEN[CS]E|USE_POLICY|NOTICE)[^/]*", re.IGNORECASE)  # what may be done with it
DATA = re.compile(r".*\.(json|jsonl|csv|tsv|parquet|txt|arrow)(\.(gz|bz2|xz|zst))?")
NOT_DATA = re.compile(r"(.*/)?(state\.json|requirements.*\.txt)|" + re.escape(MANIFEST))
CODE = (".py", ".pyc", ".ipynb", ".sh", ".so", ".dll", ".exe", ".js")
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")
OTHER_WEIGHTS = (".h5", ".msgpack", ".onnx", ".onnx_data", ".gguf", ".ggml", ".tflite", ".mlmodel", ".ot", ".npz")
ROWS_IN_TABLE = 15


@dataclass(frozen=True)
class File:
    """A file of a repository in one commit, as the hub lists it."""

    name: str
    size: int
    blob: str  # git's id of the content, or of the pointer that stands for a large file
    sha256: str | None = None  # of a large file's content


@dataclass(frozen=True)
class Choice:
    """The files to fetch, and the others by the reason why they stay."""

    files: list[File]
    left_out: dict[str, list[File]] = field(default_factory=dict)

    @property
    def size(self) -> int:
        """Bytes to fetch."""
        return sum(file.size for file in self.files)

    def table(self) -> str:
        """The choice for people: largest first, a total, and what stays behind."""
        rows = sorted(self.files, key=lambda file: (-file.size, file.name))
        lines = [f"  {amount(file.size):>9}  {file.name}" for file in rows[:ROWS_IN_TABLE]]
        if rest := rows[ROWS_IN_TABLE:]:
            lines.append(f"  {amount(sum(file.size for file in rest)):>9}  and {len(rest)} more")
        lines.append(f"  {amount(self.size):>9}  {len(self.files)} files to fetch")
        for reason, files in sorted(self.left_out.items()):
            size = amount(sum(file.size for file in files))
            names = ", ".join(file.name for file in files[:2]) + (", …" if len(files) > 2 else "")
            lines.append(f"  not fetched: {size} of {reason} ({names})")
        return "\n".join(lines)


def choose_model(files: Iterable[File], shards: set[str] | None, where: str) -> Choice:
    """What of a model's repository is needed; `shards` are the weight files that its index names, None without index.

    Raises InputError where it holds no weights that can be loaded without running somebody's code.
    """
    files = list(files)
    names = {file.name for file in files}
    if shards is None:
        shards = {WEIGHTS}
    elif missing := sorted(shards - names):
        if WEIGHTS not in names:
            raise InputError(incomplete(missing, where))
        shards = {WEIGHTS}
    if problems := model_problems(names, shards, where):
        raise InputError(problems)
    index = {INDEX} if shards != {WEIGHTS} else set()
    wanted = [
        file for file in files
        if file.name in shards | index or MODEL_FILES.fullmatch(file.name) or WORDS.fullmatch(file.name)
    ]  # fmt: skip
    return Choice(inside(wanted, where), sorted_out(files, wanted))


def model_problems(names: set[str], shards: set[str], where: str) -> list[str]:
    """Why a repository is no model that can be fetched and loaded."""
    problems = []
    suffixes = {PurePosixPath(name).suffix for name in names}
    if not shards <= names:
        if "adapter_config.json" in names:
            what, fix = "is an adapter, not a whole model", "fetch the base model that its card names"
        elif pickles := suffixes & set(PICKLES):
            what = (
                f"has its weights only as pickles ({', '.join(sorted(pickles))}), which run code when they are loaded"
            )
            fix = "take a revision with safetensors (the hub's own conversion is often REVISION=refs/pr/1), or a copy"
        elif others := (suffixes & set(OTHER_WEIGHTS)) | (suffixes & {".safetensors"}):
            what = f"has no {WEIGHTS} and no {INDEX}, only {', '.join(sorted(others))}"
            fix = "take the repository it was converted from: training reads safetensors in transformers' layout"
        else:
            what, fix = "has no weights", "check the name: a model has config.json and *.safetensors"
        problems.append(problem(where, "", what, fix))
    if "config.json" not in names and not problems:
        problems.append(
            problem(where, "config.json", "is missing, so transformers cannot load it", "take another model")
        )
    return problems


def incomplete(missing: list[str], where: str) -> str:
    """The index promises files that are not there."""
    what = f"names files that the repository does not have: {', '.join(missing[:3])}"
    return problem(where, INDEX, what, "the upload was never finished; take another REVISION=")


def choose_dataset(files: Iterable[File], where: str) -> Choice:
    """What of a data set's repository is needed: its files of rows. Raises InputError where there are none."""
    files = list(files)
    rows = [file for file in files if is_data(file.name)]
    if not rows or all(PurePosixPath(file.name).name.startswith("dataset_info") for file in rows):
        raise InputError(no_rows({file.name for file in files}, where))
    wanted = [file for file in files if file in rows or WORDS.fullmatch(file.name)]
    return Choice(inside(wanted, where), sorted_out(files, wanted))


def is_data(name: str) -> bool:
    """Whether a file of a data set holds rows, or says what they are; hidden ones never do."""
    hidden = any(part.startswith(".") for part in PurePosixPath(name).parts)
    return bool(DATA.fullmatch(name)) and not NOT_DATA.fullmatch(name) and not hidden


def no_rows(names: set[str], where: str) -> str:
    """Why a data set without rows cannot be fetched."""
    if any(name.endswith(".py") for name in names):
        what = "is only a loading script, which would run on your machine to make the rows"
        fix = "take the hub's own conversion: REVISION=refs/convert/parquet"
        return problem(where, "", what, fix)
    kinds = ", ".join(sorted({PurePosixPath(name).suffix or name for name in names})) or "nothing"
    fix = "take one with .json, .jsonl, .csv, .parquet, .txt or .arrow files, or REVISION=refs/convert/parquet"
    return problem(where, "", f"has no files of rows, only {kinds}", fix)


def inside(wanted: list[File], where: str) -> list[File]:
    """The same files. Raises InputError where one would come to lie outside of the directory that is fetched into."""
    for file in wanted:
        parts = PurePosixPath(file.name).parts
        if file.name.startswith("/") or "\\" in file.name or any(part.startswith(".") for part in parts):
            what = "is a name that leads out of the directory, or hides in it"
            raise InputError(problem(where, file.name, what, "distrust this repository, and take another one"))
    return wanted


def sorted_out(files: list[File], wanted: list[File]) -> dict[str, list[File]]:
    """The files that stay behind, by reason, the largest of each first."""
    chosen = {file.name for file in wanted}
    left: dict[str, list[File]] = {}
    for file in sorted(files, key=lambda one: (-one.size, one.name)):
        if file.name not in chosen:
            left.setdefault(reason(file.name), []).append(file)
    return left


def reason(name: str) -> str:
    """Why a file is not fetched."""
    suffix = PurePosixPath(name).suffix.lower()
    if suffix in CODE:
        return "code, which is never fetched"
    if suffix in PICKLES:
        return "pickles, which run code when they are loaded"
    if suffix in OTHER_WEIGHTS:
        return "other formats"
    if suffix == ".safetensors":
        return "weights that are not the model's, or are there twice"
    return "what training does not read"
