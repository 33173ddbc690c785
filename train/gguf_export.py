"""Write a finished model as one GGUF file for llama.cpp and Ollama, and prove it: `make export RUN=… FORMAT=gguf`.

    python -m train.gguf_export --run demo-13b7f276 [--bits 16|8]
    python -m train.gguf_export --model DIR [--bits 16|8]
    python -m train.gguf_export --run demo-13b7f276 --bits 8 --remove

Writes RUN/gguf-16bit (or DIR-gguf-16bit) with model.gguf, Modelfile and export.json. It is there only when
transformers' own reader has loaded it and found the weights, the answers, the tokens and the stops of the model.
"""

import argparse
import json
import subprocess
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from train import export_place as place
from train import export_table
from train.errors import InputError, attempt, problem, run_program
from train.files import write_json
from train.gguf_tensors import ARCHITECTURES, add_shape, check_architecture, tensors
from train.gguf_tokenizer import Vocabulary, add_vocabulary, read_vocabulary
from train.libraries import set_up_libraries
from train.ollama import modelfile

FORMATS, BITS = ("gguf",), ("16", "8")
FILE, BLOCK = "model.gguf", 32  # weights that share a scale in q8_0


def main() -> int:
    """Check, write, prove, put in place."""
    set_up_libraries()
    given = parse_arguments()
    problems = check_given(given)
    source = attempt(problems, place.find_source, given.run, given.model, given.runs_dir)
    if problems:
        raise InputError(problems)
    target = place.target_of(source, f"gguf-{given.bits}bit")
    if given.remove:
        place.remove_export(target)
        return 0
    if place.is_same(target, source):
        print(f"{target}: exported before, of these very weights; make export-remove takes it away")
        print(export_table.of_source(source))
        return 0
    config, words = judge(source, target, int(given.bits))
    with place.workplace(target) as aside:
        print(f"writing {target / FILE}: {ARCHITECTURES[config.model_type]}, {source.size / 1e6:,.1f} MB of weights",
              flush=True)  # fmt: skip
        kinds = write_gguf(aside / FILE, config, words, source.model, int(given.bits))
        text, said = modelfile(source.model, words)
        (aside / "Modelfile").write_text(text)
        proof, figures = prove(aside / FILE, source)
        size = (aside / FILE).stat().st_size
        record = {"made_by": place.MADE_BY, "format": "gguf", "bits": int(given.bits), "source": place.stamp(source),
                  "size": size, "size_of_model": source.size, "tensors": kinds, "proof": proof, "figures": figures,
                  "stops": words.stops, "template": said, "gguf": version("gguf")}  # fmt: skip
        write_json(aside / place.RECORD, record)
        place.put_in_place(aside, target)
    for check in proof:
        print(f" passed  {check['check']}: {check['figure']}")
    print(f"Modelfile: {said}\n{export_table.of_source(source)}\nexported: {target / FILE}")
    return 0


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    place.add_options(parser)
    parser.add_argument("--format", default="gguf", help="gguf")
    parser.add_argument("--bits", default="16", help="16: weights as they are; 8: q8_0")
    return parser.parse_args()


def check_given(given: argparse.Namespace) -> list[str]:
    """What is wrong with the words of the command."""
    problems = []
    if given.format not in FORMATS:
        problems.append(problem("FORMAT", given.format, "is no format to export to", f"take {', '.join(FORMATS)}"))
    if given.bits not in BITS:
        fix = f"take {' or '.join(BITS)}; llama.cpp's llama-quantize makes smaller ones of the 16-bit file"
        problems.append(problem("BITS", given.bits, "is no size of a GGUF here", fix))
    if find_spec("gguf") is None and not given.remove:
        problems.append(problem("gguf", "", "the package is not installed", "make venv, or pip install gguf"))
    return problems


def judge(source: place.Source, target: Path, bits: int) -> tuple[Any, Vocabulary]:
    """Configuration and tokenizer. Raises InputError with all that forbids the export."""
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(source.model, trust_remote_code=False, local_files_only=True)
    problems = check_architecture(config, source.model)
    words = None
    if not problems:
        words = attempt(problems, read_vocabulary, source.model, config.vocab_size)
    attempt(problems, place.check_room, target, source.size * (1 if bits == 16 else 0.6))
    if problems:
        raise InputError(problems)
    return config, words


def write_gguf(path: Path, config: Any, words: Vocabulary, model: Path, bits: int) -> dict[str, int]:
    """Write the file, one tensor in memory at a time; returns how many tensors have which number format."""
    import gguf

    writer = gguf.GGUFWriter(None, ARCHITECTURES[config.model_type])
    writer.add_name(model.resolve().parent.name if model.name in ("merged", "model") else model.resolve().name)
    add_shape(writer, config)
    add_vocabulary(writer, words)
    counts: dict[str, int] = {}
    for name, tensor in tensors(config, model):
        kind = kind_of(name, tensor, bits)
        counts[kind.name] = counts.get(kind.name, 0) + 1
        shape = gguf.quant_shape_to_byte_shape(tuple(tensor.shape), kind)
        size = torch.Size(shape).numel()
        writer.add_tensor_info(name, shape, torch.zeros(0, dtype=torch.uint8).numpy().dtype, size, raw_dtype=kind)
    main_kind = max((kind for kind in counts if kind != "F32"), key=counts.get, default="F32")
    types = gguf.LlamaFileType
    writer.add_file_type(types.ALL_F32 if main_kind == "F32" else types[f"MOSTLY_{main_kind}"])
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    writer.write_header_to_file(path)
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for name, tensor in tensors(config, model):
        writer.write_tensor_data(gguf.quantize(tensor.float().numpy(), kind_of(name, tensor, bits)))
    writer.close()
    return counts


def kind_of(name: str, tensor: torch.Tensor, bits: int) -> Any:
    """The number format of a tensor in the file; one dimension and norms are float32, as llama.cpp computes them."""
    from gguf import GGMLQuantizationType as Kind

    if tensor.dim() == 1 or "norm" in name:
        return Kind.F32
    if bits == 8 and tensor.shape[-1] % BLOCK == 0:
        return Kind.Q8_0
    return Kind.BF16 if tensor.dtype == torch.bfloat16 else Kind.F16


def prove(path: Path, source: place.Source) -> tuple[list[dict[str, str]], dict[str, dict]]:
    """What a fresh process finds in the file, and its figures. Raises InputError where that is not the model."""
    words = ["--gguf", path, "--model", source.model, *(["--data", source.data] if source.data else [])]
    found = place.in_fresh_process("train.gguf_check", *words, stdout=subprocess.PIPE)
    if found.returncode:
        what = f"the written file could not be read back (exit status {found.returncode}); its message stands above"
        raise InputError(problem(path, "", what, "nothing was kept; report this with the model's config.json"))
    told = json.loads(found.stdout.strip().split("\n")[-1])
    failed = [check for check in told["checks"] if not check["passed"]]
    if failed:
        fix = "nothing was kept; convert it with llama.cpp's own script, and report this"
        raise InputError([problem(path, check["check"], f"failed: {check['figure']}", fix) for check in failed])
    return told["checks"], told["figures"]


if __name__ == "__main__":
    run_program(main)
