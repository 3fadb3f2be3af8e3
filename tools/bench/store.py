"""How fast, how small and how durable the fit store is. Prints one JSON line.

    python -m tools.bench.store [--samples 10000 500000] [--seconds 3]        5000000 is a choice, too: 4 GB of memory

A pair is what a training step does: get 64 random records, and merge 64 better or worse ones. In this process (with a floor:
the same bytes copied by NumPy), and through the actor by 1, 2 and 4 clients, each a process (with a floor: an actor that does
nothing with the same bytes). Of each size also: opening; opening with two pending updates a sample, in segments of 4,096 (the
difference is the replay); compacting those; bytes written per update, over the bytes of its columns; and the peak of a
process that opens the store and serves it, over the bytes of its records (of small stores: mostly of everything else). At
the top: the figures of the largest size up to 500,000.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import resource
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from store import Fingerprint, Fits, FitStore
from store.fits.records import COLUMNS, Source, put_rows, take_rows

ROWS = 64  # of a get and of a merge
GROUP = 4096  # records in a segment
MANY = 500_000
CLIENTS = (1, 2, 4)
PAYLOAD = sum(column.dtype.itemsize * max(column.width, 1) for column in COLUMNS.values())  # bytes
FINGERPRINT = Fingerprint("body:1", "objective:1", "score:1", "annotations:1")


def random_fits(count: int, rng: np.random.Generator) -> Fits:
    """Admissible fits with scores of their own, as a structure of arrays, which is how a trainer has them."""
    scores = rng.random(count, np.float32)
    columns = {name: np.zeros(column.shape(count), column.dtype) for name, column in COLUMNS.items()}
    columns |= {"score": scores, "loss": scores, "source": np.full(count, Source.LOOP, np.uint8)}
    columns["pose"] = rng.standard_normal((count, 72), np.float32)
    columns["betas"] = rng.uniform(-2, 2, (count, 10)).astype(np.float32)
    columns["camera"] = rng.uniform(1, 40, (count, 3)).astype(np.float32)
    columns["time"] = np.full(count, time.time_ns() // 1_000_000)
    return Fits(**columns)


def timed(action: Callable[..., object], *arguments: Any) -> float:
    begin = time.perf_counter()
    action(*arguments)
    return time.perf_counter() - begin


def rounds(samples: int, seconds: float, rng: np.random.Generator) -> Iterator[tuple[np.ndarray, Fits]]:
    """Samples and offers of pairs, made a hundred ahead so that making them is not measured."""
    over = time.perf_counter() + seconds
    while time.perf_counter() < over:
        made = [(rng.integers(0, samples, ROWS), random_fits(ROWS, rng)) for _ in range(100)]
        yield from made


def percentiles(name: str, seconds: list[float]) -> dict[str, float]:
    p50, p99 = np.percentile(seconds, (50, 99)) * 1e3
    return {
        f"{name}_p50_ms": p50,
        f"{name}_p99_ms": p99,
        f"{name}_rows_per_s": ROWS * len(seconds) / sum(seconds),
    }


def in_process(store: FitStore, seconds: float) -> dict[str, float]:
    """Pairs without the disk; and the floor, which only copies as many rows out and in."""
    rng = np.random.default_rng(1)
    get, merge, floor = [], [], []
    rows = store.fits.to_rows()  # put back as they were
    cpu = 0.0
    for ids, fits in rounds(store.samples, seconds, rng):
        begin = time.process_time()
        get.append(timed(store.get, ids))
        merge.append(timed(store.merge, ids, fits))
        cpu += time.process_time() - begin
        floor.append(timed(lambda i: put_rows(rows, i, take_rows(rows, i)), ids))
    return {
        "inprocess_pairs_per_s": len(get) / (sum(get) + sum(merge)),
        "inprocess_pairs_per_cpu_s": len(get) / cpu,
        "floor_inprocess_pairs_per_s": len(floor) / sum(floor),
        **percentiles("inprocess_get", get),
        **percentiles("inprocess_merge", merge),
    }


# ---- through the actor --------------------------------------------------------------------------------------------------


class Nothing:
    """The floor: takes and returns the same bytes as the service does."""

    def __init__(self) -> None:
        self._fits = random_fits(ROWS, np.random.default_rng(0))

    def tags(self) -> list[str]:
        return []

    def get(self, ids: np.ndarray) -> Fits:
        return Fits.of_rows(self._fits.to_rows().copy())

    def offer(self, ids: np.ndarray, fits: Fits, fence: str) -> np.ndarray:
        return np.zeros(len(ids), bool)


def client(service: Any, samples: int, seconds: float, seed: int, start_at: float) -> tuple[list[float], list[float]]:
    """Seconds of every get and every offer; each waits for its answer, as training does."""
    import ray

    rng = np.random.default_rng(seed)
    get, offer = [], []
    time.sleep(max(0.0, start_at - time.time()))
    for ids, fits in rounds(samples, seconds, rng):
        get.append(timed(lambda i: ray.get(service.get.remote(i)), ids))
        offer.append(timed(lambda i, f: ray.get(service.offer.remote(i, f, "bench")), ids, fits))
    return get, offer


def by_clients(service: Any, samples: int, seconds: float, clients: int) -> dict[str, float]:
    import ray

    task = ray.remote(client).options(num_cpus=0)
    ray.get([task.remote(service, samples, 0.1, 0, 0.0) for _ in range(clients)])  # their processes are up
    start = time.time() + 0.2
    found = ray.get([task.remote(service, samples, seconds, seed, start) for seed in range(clients)])
    get, offer = [s for part, _ in found for s in part], [s for _, part in found for s in part]
    pairs_per_s = sum(len(part) / (sum(part) + sum(other)) for part, other in found)
    out = {"pairs_per_s": pairs_per_s, **percentiles("get", get), **percentiles("offer", offer)}
    return {f"{name}_{clients}_clients": value for name, value in out.items()}


def through_the_actor(folder: Path, samples: int, seconds: float) -> dict[str, float]:
    from pipelines.cluster.session import ray_session
    from pipelines.fits.service import start_service

    with ray_session():
        import ray  # after its environment is set

        service = start_service(folder, samples, FINGERPRINT, "bench")
        nothing = ray.remote(Nothing).options(num_cpus=0).remote()
        out: dict[str, float] = {}
        for clients in CLIENTS:
            found = by_clients(service, samples, seconds, clients)
            out |= {f"actor_{name}": value for name, value in found.items()}
            floor = by_clients(nothing, samples, seconds, clients)
            out[f"floor_actor_pairs_per_s_{clients}_clients"] = floor[f"pairs_per_s_{clients}_clients"]
        ray.get(service.close.remote())
    return out


# ---- on disk ------------------------------------------------------------------------------------------------------------


def fill(store: FitStore, updates: int, rng: np.random.Generator, better: float) -> None:
    """Durable updates in groups, each of which replaces its sample's fit."""
    fits = random_fits(GROUP, rng)
    rows = fits.to_rows()
    for number, start in enumerate(range(0, updates, GROUP)):
        count = min(GROUP, updates - start)
        ids = (np.arange(start, start + count) * 7919) % store.samples
        rows["score"] = better - number
        store.merge(ids, Fits.of_rows(rows[:count]))
        store.flush()


def bytes_in(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def measured_apart(target: Callable[..., dict[str, float]], *arguments: Any) -> dict[str, float]:
    """In a new process, whose memory nothing else has used."""
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_answer, args=(sender, target, arguments))
    process.start()
    found = receiver.recv()
    process.join()
    return found


def _answer(sender: Any, target: Callable[..., dict[str, float]], arguments: tuple[Any, ...]) -> None:
    sender.send(target(*arguments))


def peak_bytes() -> int:
    status = Path("/proc/self/status")
    if status.exists():  # ru_maxrss would count the parent's, from before this process was another program
        return int(status.read_text().partition("VmHWM:")[2].split()[0]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def opened(folder: Path, warm: Path) -> dict[str, float]:
    """Opening, after a small store has been opened and used, so that imports and first calls are not counted."""
    rng = np.random.default_rng(0)
    small = FitStore.open(warm)
    small.merge(rng.integers(0, small.samples, ROWS), random_fits(ROWS, rng))
    before = peak_bytes()
    begin, cpu = time.perf_counter(), time.process_time()
    store = FitStore.open(folder)
    out = {"open_s": time.perf_counter() - begin, "open_cpu_s": time.process_time() - cpu}
    for ids, fits in rounds(store.samples, 0.2, rng):
        store.get(ids)
        store.merge(ids, fits)
    return out | {"memory_ratio": (peak_bytes() - before) / (store.samples * PAYLOAD)}


def sleeping(store: FitStore, during: Callable[[], object]) -> dict[str, float]:
    """How long gets and merges take while something goes on in another thread."""
    other = threading.Thread(target=during)
    rng = np.random.default_rng(2)
    offers = [(rng.integers(0, store.samples, ROWS), random_fits(ROWS, rng)) for _ in range(100)]
    get: list[float] = []
    merge: list[float] = []
    other.start()
    while other.is_alive() or not get:
        ids, fits = offers[len(get) % 100]
        get.append(timed(store.get, ids))
        merge.append(timed(store.merge, ids, fits))
        time.sleep(0.001)
    other.join()
    return {"get_p99_ms_while_compacting": float(np.percentile(get, 99) * 1e3), "get_max_ms_while_compacting": max(get) * 1e3,
            "merge_p99_ms_while_compacting": float(np.percentile(merge, 99) * 1e3)}  # fmt: skip


def of_size(folder: Path, samples: int, seconds: float, *, actor: bool) -> dict[str, float]:
    place, warm, rng = folder / str(samples), folder / "warm", np.random.default_rng(0)
    if not warm.exists():
        FitStore.create(warm, samples=1000, fingerprint=FINGERPRINT)
    store = FitStore.create(place, samples=samples, fingerprint=FINGERPRINT)
    fill(store, samples, rng, better=1e6)
    store.compact()
    plain = measured_apart(opened, place, warm)
    fill(store, 2 * samples, rng, better=1e5)
    out = {"write_amplification": bytes_in(place / "segments") / (2 * samples * PAYLOAD)}
    out |= {"bytes_per_update": out["write_amplification"] * PAYLOAD, "segments": store.segments}
    pending = measured_apart(opened, place, warm)
    out |= {"open_s": plain["open_s"], "open_with_pending_s": pending["open_s"]}
    out |= {"open_with_pending_cpu_s": pending["open_cpu_s"], "replay_s": pending["open_s"] - plain["open_s"]}
    out["floor_open_with_pending_s"] = timed(lambda: [p.read_bytes() for p in place.rglob("*") if p.is_file()])
    out |= {"memory_ratio": plain["memory_ratio"], "memory_ratio_with_pending": pending["memory_ratio"]}
    out["compact_s"] = timed(store.compact)
    out |= sleeping(store, lambda: store.compact(force=True))
    out |= in_process(store, seconds)
    del store
    if actor:
        out |= through_the_actor(place, samples, seconds)
    shutil.rmtree(place)
    return out


def measure(sizes: list[int], seconds: float, *, actor: bool = True) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as temporary:
        found = {n: of_size(Path(temporary), n, seconds, actor=actor) for n in sizes}
    chosen = max((n for n in sizes if n <= MANY), default=min(sizes))
    top = {name: found[chosen][name] for name in ("inprocess_pairs_per_s", "write_amplification", "memory_ratio")}
    if actor:
        top["actor_pairs_per_s_2_clients"] = found[chosen]["actor_pairs_per_s_2_clients"]
    if MANY in found:
        top["open_500k_1m_s"] = found[MANY]["open_with_pending_s"]
    return {"of_samples": chosen, **top, "sizes": {str(n): f for n, f in found.items()}}


def rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: rounded(item) for key, item in value.items()}
    return float(f"{value:.4g}") if isinstance(value, float) else value


def main() -> None:
    """Command line: see --help."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, nargs="+", default=[10_000, MANY], help="sizes of stores")
    parser.add_argument("--seconds", type=float, default=3.0, help="of each measurement of pairs")
    parser.add_argument("--no-actor", action="store_true", help="leave out what needs Ray")
    arguments = parser.parse_args()
    found = measure(arguments.samples, arguments.seconds, actor=not arguments.no_actor)
    print(json.dumps(rounded(found)))


if __name__ == "__main__":
    main()
