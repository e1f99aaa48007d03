"""How each model of the zoo is trained, by words after `elbowroom train`, and training those that are missing.

At scale cpu a training takes as long as two cores allow, at scale full it has the settings of the paper and takes days.
At scale quick only those are trained, for seconds, that are too many to be kept in the zoo.
"""

import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

from ..training import WEIGHTS, read_epochs
from .run_folders import alone
from .terminal import UserError, bars, say

__all__ = ["RECIPES", "TRAINED_QUICKLY", "folder_of", "train_models", "training_words"]

LONG = "--half --threads 1 --epochs 400"
LONGER = "--half --threads 1 --epochs 600"  # where 400 are not enough
BRIEFLY = "--half --threads 1 --epochs 150"
BRIEF = f"fashion-mnist {BRIEFLY}"
FOR_FROZEN = f"{BRIEF} --frozen {{zoo}}/fashion-ffg{{at}}"
LINEAR = f"{BRIEF} --encoder linear --frozen {{zoo}}/fashion-ffg{{at}}"
CIFAR = "cifar10 --half --threads 1 --networks conv --heldout 5000 --epochs 20 --compile"
AUXILIARY = "--family auxiliary --compile --clip-norm 150"
PAPERS_FLOW = "--family auxiliary-sigmoid"
ALONG_THE_WAY = (
    "fashion-mnist --half --threads 1 --epochs 100 --keep 1,3,10,30 --latents 20 --batch-size 50 "
    "--schedule constant --annealing none"
)
RECIPES = {
    "fashion-ffg": f"fashion-mnist {LONGER}",
    "fashion-af": f"fashion-mnist {LONGER} {AUXILIARY}",
    "mnist-gray256-ffg": f"mnist {LONG} --binarize gray256 --heldout 5000 --patience 400",
    "mnist-ffg": f"mnist {LONG}",
    "mnist-af": f"mnist {LONG} {AUXILIARY}",
    "fashion-brief": BRIEF,  # what the others of 150 epochs are compared with
    "fashion-brief-af": f"{BRIEF} {AUXILIARY}",
    "fashion-large-encoder": f"{BRIEF} --encoder 500-500",
    "fashion-no-annealing": f"{BRIEF} --annealing none",
    "fashion-no-annealing-af": f"{BRIEF} --annealing none {AUXILIARY}",
    "fashion-decoder-0": f"{BRIEF} --decoder linear",
    "fashion-decoder-4": f"{BRIEF} --decoder 200-200-200-200",
    "mnist-2d": f"mnist {BRIEFLY} --latents 2",
    "fashion-linear-ffg": LINEAR,
    "fashion-linear-full": f"{LINEAR} --family full --learning-rate 0.0001",  # at 0.001 it hardly learns
    "fashion-linear-flow": f"{LINEAR} --family flow --clip-norm 150",
    "fashion-linear-af": f"{LINEAR} --family auxiliary --clip-norm 150",
    "fashion-encoder-diagonal": FOR_FROZEN,  # these three have 217,300 parameters, or within 600 of them
    "fashion-encoder-full": f"{FOR_FROZEN} --encoder 98-98 --family full",
    "fashion-encoder-flow": f"{FOR_FROZEN} --encoder 184-184 --family flow",
    **{  # as many steps as with all 60,000 images
        f"fashion-data-{n}": FOR_FROZEN.replace("--epochs 150", f"--epochs {150 * 60_000 // n} --n {n}")
        for n in (1_000, 4_000, 15_000)
    },
    "fashion-epochs": ALONG_THE_WAY,
    "fashion-epochs-flow": f"{ALONG_THE_WAY} --family flow --clip-norm 150",
    "fashion-epochs-large-decoder": f"{ALONG_THE_WAY} --decoder 500-500-500",
    "fashion-epochs-large-encoder": f"{ALONG_THE_WAY} --encoder 500-500-500",
    "cifar-ffg": CIFAR,
    "cifar-af": f"{CIFAR} --family auxiliary --clip-norm 150",
    "cifar-wide-encoder": f"{CIFAR} --encoder 128-256-512",
}
TRAINED_QUICKLY = {name: f"{words} --n 250" for name, words in RECIPES.items() if words.startswith(ALONG_THE_WAY)}

ANOTHER_TRAINS = "another process trains it; run this command again when it has ended"
LOOK_AFTER = 0.5  # seconds between two looks at how far trainings are
UNTIL_ALONE = """
import os, sys, threading
def end():
    sys.stdin.read()
    os._exit(1)
threading.Thread(target=end, daemon=True).start()
from elbowroom.cli import main
sys.exit(main())
"""  # a training whose starter is killed ends too, since its standard input does


def folder_of(model: str, scale: str = "cpu", seed: int = 0) -> str:
    """The folder of a model in the zoo. One after some epochs, as fashion-epochs/epoch-3, is in that of its end."""
    name, *epoch = model.split("/")
    if scale == "full" or (scale == "quick" and name in TRAINED_QUICKLY):
        name = f"{name}-at-{scale}"
    return "/".join([f"{name}-seed-{seed}" if seed else name, *epoch])


def training_words(name: str, zoo: Path, scale: str = "cpu", seed: int = 0) -> list[str]:
    """The words after `elbowroom train` that make a model. KeyError for one without a recipe at this scale."""
    recipe = TRAINED_QUICKLY[name] if scale == "quick" else RECIPES[name]
    if scale == "full":
        recipe = _as_in_the_paper(recipe)
    words = [word.format(zoo=zoo, at="-at-full" if scale == "full" else "") for word in shlex.split(recipe)]
    return [*words, *(["--seed", str(seed)] if seed else []), "--out", str(zoo / folder_of(name, scale, seed))]


def train_models(
    models: Sequence[str],
    zoo: Path,
    scale: str = "cpu",
    *,
    seed: int = 0,
    data_dir: Path | None = None,
    workers: int = 1,
) -> None:
    """Train those of these models that are not in the zoo, some at once; a training that was begun is gone on with.

    Raises:
        UserError: a training failed, or a model has no recipe at this scale.
    """
    missing = dict.fromkeys(
        model.split("/")[0] for model in models if not (zoo / folder_of(model, scale, seed) / WEIGHTS).exists()
    )
    for name in missing:
        if name not in (TRAINED_QUICKLY if scale == "quick" else RECIPES):
            trains = ". --scale cpu trains what is missing, for minutes up to hours" if name in RECIPES else ""
            raise UserError(f"{zoo / name}: there is no such model. Name the folder of the models with --zoo{trains}")
        ended = zoo / folder_of(name, scale, seed)
        if (ended / WEIGHTS).exists():
            raise UserError(f"{ended}: was trained without its models after some epochs; remove it to train it anew")
    if missing:
        frozen = {kept.group(1) for name in missing if (kept := re.search(r"{zoo}/(.*?){at}", RECIPES[name]))}
        train_models(sorted(frozen), zoo, scale, data_dir=data_dir, workers=workers)
        more = [] if data_dir is None else ["--data-dir", str(data_dir)]
        _train_at_once({name: [*training_words(name, zoo, scale, seed), *more] for name in missing}, workers)


def _train_at_once(words: Mapping[str, Sequence[str]], workers: int) -> None:
    """Run trainings, each in a process of one thread, and show how far they are.

    One that fails does not stop the others. If they are interrupted, what they have done is kept.
    """
    failed: list[str] = []
    running: list[subprocess.Popen[str]] = []
    with ExitStack() as stack:
        for each in words.values():
            stack.enter_context(alone(Path(_value(each, "--out")), unless=ANOTHER_TRAINS))
        add = stack.enter_context(bars("epochs"))
        pool = stack.enter_context(ThreadPoolExecutor(workers))
        stack.callback(_interrupt, pool, running)
        left = {name: pool.submit(_train, each, running) for name, each in words.items()}
        shown = {name: add(f"training {name}", int(_value(each, "--epochs"))) for name, each in words.items()}
        while left:
            time.sleep(LOOK_AFTER)
            for name in [name for name, each in left.items() if each.done()]:
                code, said = left.pop(name).result()
                failed += [f"the training of {name} failed: {said.removeprefix('elbowroom: error: ')}"] if code else []
                say(said)
            for name in left:
                shown[name](_epochs_done(words[name]), int(_value(words[name], "--epochs")))
    if failed:
        raise UserError("; ".join(failed))


def _interrupt(pool: ThreadPoolExecutor, running: Sequence[subprocess.Popen[str]]) -> None:
    """Begin no more trainings, and let those that run save what they have done."""
    pool.shutdown(wait=False, cancel_futures=True)
    for each in running:
        if each.poll() is None:
            each.send_signal(signal.SIGINT)


def _train(words: Sequence[str], running: list[subprocess.Popen[str]]) -> tuple[int, str]:
    """Run a training -> its exit code, and what it said of its result, or at last."""
    program = [sys.executable, "-P", "-c", UNTIL_ALONE, "train", *words]  # no module is taken from the current folder
    with subprocess.Popen(
        program, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as run:
        running.append(run)
        assert run.stdout is not None
        lines = [line.strip() for line in run.stdout if line.strip()]
    folder = f"{_value(words, '--out')}: "
    return run.returncode, next((line for line in lines if line.startswith(folder)), ["it said nothing", *lines][-1])


def _value(words: Sequence[str], option: str) -> str:
    return words[words.index(option) + 1]


def _epochs_done(words: Sequence[str]) -> int:
    """How many epochs of a training are done, by its log."""
    try:
        return len(read_epochs(Path(_value(words, "--out"))))
    except (OSError, ValueError):  # not begun yet, or in the middle of a line
        return 0


def _as_in_the_paper(recipe: str) -> str:
    """A recipe with the 3,280 epochs and the learning rates of Burda, and the warm-up and auxiliary flow of the paper.

    Where few images are trained on, there are as many steps as with all of them. What is kept along the way stays as it
    is, so that nothing but the number of epochs differs.
    """
    if recipe.startswith(ALONG_THE_WAY):
        return recipe
    few = re.search(r"--n (\d+)", recipe)
    times = 60_000 // int(few.group(1)) if few else 1
    longer = re.sub(r" --(epochs|schedule|patience) \S+", "", recipe).replace("--family auxiliary", PAPERS_FLOW)
    warmup = times * (50 if recipe.startswith("cifar") else 400)
    unless = "" if "--annealing none" in recipe else f" --warmup {warmup}"
    return f"{longer} --epochs {3280 * times} --schedule stepped{unless}"
