"""Classes of timm, torchvision, x-transformers and MONAI with random weights: cut, equal, saved, loaded, exported.

    python tests/benchmarks/third_party.py                    all of them
    python tests/benchmarks/third_party.py --only xcit,convit those whose names hold one of these
    python tests/benchmarks/third_party.py --no-export        leaves the export out, which takes half of the time
    python tests/benchmarks/third_party.py --file table.md    also writes the table, a row at once; started again, it
                                                              goes on with the classes that the file does not have

Each class runs in a process of its own, so that its extra memory is the peak of that process over what it held before
the cut. Libraries that are not installed are left out, with a line. `equal` is the largest difference of the cut model
and the one that was loaded from its file. A class that is refused because norms average over every width is cut with
`norms="cut"`, and the table says so. That the cut model is equal to the masked one is checked by the cut itself.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import multiprocessing
import resource
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

SIZE = 64
# The smallest variant of each class.
TIMM = """
xcit_nano_12_p16_224 convit_tiny eva02_tiny_patch14_224 vit_tiny_patch16_224 deit_tiny_distilled_patch16_224
cait_xxs24_224 beit_base_patch16_224 crossvit_tiny_240 coat_lite_tiny pvt_v2_b0 twins_svt_small pit_ti_224 levit_128s
swin_tiny_patch4_window7_224 swinv2_cr_tiny_224 mvitv2_tiny maxvit_rmlp_pico_rw_256 tnt_s_patch16_224 visformer_tiny
edgenext_xx_small mobilevit_xxs mobilevitv2_050 fastvit_t8 efficientformer_l1 efficientvit_b0 poolformer_s12
convnext_atto convnextv2_atto convmixer_768_32 mixer_s32_224 resmlp_12_224 gmlp_ti16_224 resnet18 resnet26d
nf_resnet26 resnetv2_50x1_bit seresnet18 skresnet18 resnest14d res2net50_14w_8s resnext26ts regnetx_002 regnety_002
mobilenetv2_035 mobilenetv3_small_050 mobilenetv4_conv_small efficientnet_lite0 tf_efficientnetv2_b0 mnasnet_small
fbnetc_100 ghostnet_050 hrnet_w18_small dla34 densenet121 vgg11 darknet53 cspresnet50 dpn48b rexnet_100 repvgg_a0
inception_v3 halonet26t lambda_resnet26t vovnet39a focalnet_tiny_srf nest_tiny inception_next_atto tiny_vit_5m_224
""".split()  # noqa: SIM905 - a list literal would take 70 lines
# Those that took longest come last.
SLOW = "crossvit_tiny_240 coat_lite_tiny hrnet_w18_small levit_128s mvitv2_tiny beit_base_patch16_224 vgg11".split()  # noqa: SIM905
TORCHVISION = ["googlenet", "squeezenet1_1", "shufflenet_v2_x0_5", "mnasnet0_5", "alexnet"]


def of_timm(name: str) -> tuple[Any, Any]:
    """A class of timm for ten classes, and its input."""
    timm, torch = importlib.import_module("timm"), importlib.import_module("torch")
    try:
        model = timm.create_model(name, num_classes=10, img_size=SIZE)
    except (TypeError, AssertionError, RuntimeError, ValueError):
        model = timm.create_model(name, num_classes=10)
    for size in (SIZE, model.default_cfg.get("input_size", (3, 224, 224))[-1]):
        x = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(0))
        try:
            with torch.no_grad():
                model.eval()(x)
        except Exception:  # noqa: BLE001 - it needs the size that it was made for
            continue
        break
    return model, x


def of_torchvision(name: str) -> tuple[Any, Any]:
    """A class of torchvision, and its input."""
    models, torch = importlib.import_module("torchvision.models"), importlib.import_module("torch")
    options = {"init_weights": True} if name == "googlenet" else {}
    return getattr(models, name)(num_classes=10, weights=None, **options), torch.randn(2, 3, SIZE, SIZE)


def of_x_transformers(name: str) -> tuple[Any, Any]:
    """A decoder or encoder of x-transformers over tokens."""
    library, torch = importlib.import_module("x_transformers"), importlib.import_module("torch")
    options = {
        "plain": {},
        "rotary": {"rotary_pos_emb": True},
        "multi-query": {"attn_kv_heads": 1},
        "glu": {"ff_glu": True},
    }
    layers = library.Decoder(dim=64, depth=2, heads=4, attn_dim_head=16, **options[name.split()[1]])
    model = library.TransformerWrapper(num_tokens=60, max_seq_len=32, attn_layers=layers)
    return model, torch.randint(0, 60, (2, 12))


def of_monai(name: str) -> tuple[Any, Any]:
    """A segmentation network of MONAI, and its input."""
    nets, torch = importlib.import_module("monai.networks.nets"), importlib.import_module("torch")
    options: dict[str, dict[str, Any]] = {
        "UNet": {"channels": (8, 16, 32), "strides": (2, 2)},
        "AttentionUnet": {"channels": (8, 16, 32), "strides": (2, 2)},
        "SegResNet": {"init_filters": 8},
        "VNet": {},
        "BasicUNet": {"features": (8, 8, 16, 16, 32, 8)},
    }
    model = getattr(nets, name)(spatial_dims=2, in_channels=1, out_channels=2, **options[name])
    return model, torch.randn(2, 1, SIZE, SIZE)


LIBRARIES: dict[str, tuple[Callable[[str], tuple[Any, Any]], list[str]]] = {
    "timm": (of_timm, TIMM),
    "torchvision": (of_torchvision, TORCHVISION),
    "x_transformers": (of_x_transformers, ["decoder plain", "decoder rotary", "decoder multi-query", "decoder glu"]),
    "monai": (of_monai, ["UNet", "AttentionUnet", "SegResNet", "VNet", "BasicUNet"]),
}


def measured(library: str, name: str, *, exports: bool) -> str:
    """One class as a row of the table."""
    import torch

    import nbcompress as nc
    from nbcompress.compressors.coupling import tensors_of
    from nbcompress.errors import NbcompressError

    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    build = LIBRARIES[library][0]
    torch.manual_seed(0)
    model, x = build(name)
    model.eval()
    n_before = sum(parameter.numel() for parameter in model.parameters())
    held, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    norms = ""
    try:
        small = nc.prune(model, 0.5, granularity="channel", example=x)
    except NbcompressError as refusal:
        try:
            small, norms = nc.prune(model, 0.5, granularity="channel", norms="cut", example=x), " with norms"
        except NbcompressError:
            seconds = time.process_time() - start
            return f"| {library} | {name} | {n_before:,} | refused | | | {seconds:.1f} | | {str(refusal)[:300]} |"
    seconds = time.process_time() - start
    extra = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - held) * 1024 / (4 * n_before)
    left = 1 - sum(parameter.numel() for parameter in small.parameters()) / n_before
    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        torch.manual_seed(0)
        loaded = nc.load(nc.save(small, Path(folder) / "small.nbz"), build(name)[0]).eval()
        pairs = zip(tensors_of(small.eval()(x)), tensors_of(loaded(x)), strict=True)
        distance = max(float((a - b).abs().max()) for a, b in pairs)
        exported = _exported(small, x, Path(folder) / "small.onnx") if exports else ""
    found = [
        library,
        name,
        f"{n_before:,}",
        f"{left:.0%}{norms}",
        f"{distance:.1g}",
        exported,
        f"{seconds:.1f}",
        f"{extra:.1f}",
    ]
    return "| " + " | ".join([*found, "|"])


def _exported(small: Any, x: Any, path: Path) -> str:
    """Whether a cut model can be exported, or why not."""
    import nbcompress as nc
    from nbcompress.errors import NbcompressError

    try:
        nc.export(small, path, example=x)
    except NbcompressError as err:
        return str(err)[:160]
    return "yes"


def load_tracer() -> None:
    """Load what the first cut of a process loads, so that no class is charged with it."""
    import torch

    import nbcompress as nc

    torch.set_num_threads(1)
    model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Linear(8, 2))
    nc.prune(model, 0.5, granularity="channel", example=torch.zeros(2, 4))


def _send(connection: Any, library: str, name: str, exports: bool) -> None:
    try:
        connection.send(measured(library, name, exports=exports).replace("\n", " "))
    except BaseException as err:  # noqa: BLE001 - a crash is a row of the table
        row = f"| {library} | {name} | | crash | | | | | {type(err).__name__}: {str(err)[:300]} |"
        connection.send(row.replace("\n", " "))


def row(library: str, name: str, limit: float, *, exports: bool) -> str:
    """The row of a class, measured in a process of its own."""
    # A fork of a process that has loaded the libraries starts at once.
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_send, args=(theirs, library, name, exports))
    process.start()
    theirs.close()
    try:
        found = str(ours.recv()) if ours.poll(limit) else f"| {library} | {name} | | over {limit:g} s | | | | | |"
    except EOFError:
        found = f"| {library} | {name} | | died | | | | | |"
    process.kill()
    process.join()
    return found


def main() -> None:
    """Print the table, or write it."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--only", default="")
    parser.add_argument("--file")
    parser.add_argument("--no-export", action="store_true")
    parser.add_argument("--limit", type=float, default=300)
    options = parser.parse_args()
    wanted = options.only.split(",")
    path = Path(options.file) if options.file else None
    done = path.read_text().splitlines() if path and path.exists() else []
    load_tracer()

    def show(line: str) -> None:
        print(line, flush=True)
        if path:
            with path.open("a") as file:
                file.write(f"{line}\n")

    if not done:
        show("| library | class | parameters | cut | loaded, difference | exported | CPU s | extra, weights | why |")
        show("| --- " * 9 + "|")
    for library, (_, names) in LIBRARIES.items():
        if importlib.util.find_spec(library) is None:
            print(f"{library} is not installed", flush=True)
            continue
        importlib.import_module(library)
        for name in sorted(names, key=SLOW.__contains__):
            is_done = any(line.startswith(f"| {library} | {name} |") for line in done)
            if not is_done and any(part in name for part in wanted):
                show(row(library, name, options.limit, exports=not options.no_export))


if __name__ == "__main__":
    main()
