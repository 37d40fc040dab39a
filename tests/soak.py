"""Random kills for as long as you like: a real hub on the real engine, with users that never rest.

    make soak ARGS="--seed 1"                  from nothing; or in a lab that is up:
    tests/engine.sh exec .venv/bin/python -m tests.soak --seed 1 --kills 300 --minutes 9 --resume

One call runs for at most `--minutes`; `--resume` goes on with what an earlier call began, until `--kills` are done. The
result is written to docs/soak-result.md each time. Ends with 0 where nothing was violated; SIGTERM ends it cleanly.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import statistics
import sys
import tempfile
import time
from collections import Counter
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from tests.fakes import nvml_library
from tests.faults.soak_world import World, make_image
from tests.hub_fixtures import gpu_env, play
from tests.running_hub import ROOT

RESULT = ROOT / "docs/soak-result.md"
#: Kind of fault and how often it comes.
KINDS = {
    "hub SIGKILL": 30,
    "container killed": 35,
    "start cancelled": 25,
    "engine restarted (TERM)": 5,
    "engine restarted (KILL)": 5,
}
#: No violation: container and lease are one, and its user's next start replaces it.
UNSEEN = "containers that ran while the hub showed their server as stopped"


@dataclass
class State:
    """What a soak has done so far. Times in seconds."""

    seed: int
    slices: list[dict[str, Any]] = field(default_factory=list)
    recovery: dict[str, list[float]] = field(default_factory=dict)
    violations: list[str] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)

    @property
    def kills(self) -> int:
        """Faults so far."""
        return sum(len(times) for times in self.recovery.values())


def load(file: Path, seed: int, *, resume: bool) -> State:
    """The state of an earlier call, or a new one."""
    if resume and file.exists():
        state = State(**json.loads(file.read_text()))
        if state.seed != seed:
            sys.exit(f"{file} is of seed {state.seed}: give that one, another --state, or no --resume")
        return state
    return State(seed)


class Soak:
    """One call."""

    def __init__(self, state: State, world: World) -> None:
        self.state, self.world = state, world
        self.ended = False

    def run(self, kills: int, seconds: float) -> None:
        """Faults until there are `kills` in all, time is up, or somebody says to end."""
        deadline = time.monotonic() + seconds
        self.world.begin()
        while self.state.kills < kills and time.monotonic() < deadline and not self.ended:
            try:
                self._one()
            except AssertionError as problem:
                self._violated(f"after {self.state.kills}: {problem}")
                return

    def _one(self) -> None:
        world = self.world
        [kind] = world.random.choices(list(KINDS), list(KINDS.values()))
        world.gate.open()
        time.sleep(world.random.uniform(0.2, 1.0))
        began = self._fault(kind)
        # Who was at something comes to an end with it; nobody begins anything new until everything was looked at.
        world.gate.close()
        if kind == "hub SIGKILL":
            world.hub.wait_healthy()
        at = world.recovered()
        self.state.recovery.setdefault(kind, []).append(round((at or time.monotonic()) - began, 3))
        number = self.state.kills
        if at is None:
            self._violated(f"{number} {kind}: not recovered after 60 s: {world.problems()}")
        elif not world.quiet():
            self._violated(f"{number} {kind}: something is still under way, or no reconcile came")
        else:
            for problem in world.problems():
                self._violated(f"{number} {kind}: {problem}")
            world.counts[UNSEEN] += len(world.unseen)
        for problem in dict.fromkeys(world.watcher.violations):
            self._violated(f"{number} {kind}: {problem}")
        world.watcher.violations.clear()
        print(f"{number:4} {kind:24} {self.state.recovery[kind][-1]:6.2f} s", flush=True)

    def _fault(self, kind: str) -> float:
        world = self.world
        if kind == "hub SIGKILL":
            return world.kill_hub()
        if kind == "container killed":
            return world.kill_container()
        if kind == "start cancelled":
            return world.cancel_start()
        return world.restart_engine("KILL" if "KILL" in kind else "TERM")

    def _violated(self, text: str) -> None:
        print(f"VIOLATION {text}", flush=True)
        self.state.violations.append(text)


def quantile(values: list[float], part: int) -> float:
    """The percentile `part` of the values."""
    return statistics.quantiles(values, n=100, method="inclusive")[part - 1] if len(values) > 1 else values[0]


def result(state: State, kills: int) -> str:
    """The result file."""
    done = "all of them" if state.kills >= kills else f"of {kills} wanted, to be resumed"
    played: Counter[str] = Counter()
    for part in state.slices:
        played[part["machine"]] += part["kills"]
    machines = ", ".join(f"{name}: {count} faults" for name, count in played.items())
    lines = [
        "# Soak: random kills on the real engine",
        "",
        f'`make soak ARGS="--seed {state.seed} --kills {kills} --resume"`: {state.kills} faults ({done}), '
        f"{sum(s['seconds'] for s in state.slices) / 60:.0f} minutes in {len(state.slices)} calls, "
        f"last on {state.slices[-1]['date']}, on {os.cpu_count()} cores with a load average of "
        f"{max(part.get('load', 0) for part in state.slices)} at most, all other work on that machine included.",
        "",
        f"**Violations: {len(state.violations)}.** Looked for at any time, in the engine's own events, device requests "
        "and labels: a device in two running containers. After each fault and one reconcile: a lease without a "
        "container, a container without a lease, and what the hub's own check of its invariants reports.",
        "",
        "Three users start and stop two servers each without a pause, CPU only, with one or two slices or a whole GPU "
        f"of a machine of config/simulated played through NVML ({machines}). A small web server stands for "
        "JupyterLab. Hub, proxy, ledger, engine and the engine's device requests are the real ones.",
        "",
        "| fault | times | recovery p50 | p95 | longest |",
        "|---|---|---|---|---|",
    ]
    everything = [time for times in state.recovery.values() for time in times]
    rows = [*sorted(state.recovery.items()), *([("all", everything)] if everything else [])]
    for kind, times in rows:
        p50, p95 = quantile(times, 50), quantile(times, 95)
        lines.append(f"| {kind} | {len(times)} | {p50:.2f} s | {p95:.2f} s | {max(times):.2f} s |")
    lines += [
        "",
        "Recovery is counted from the kill (for the engine: from its first answer after the restart) until the hub "
        "answers and every lease has its container and every container its lease, but for starts and stops that are "
        "under way. A hub that was killed is started again at once.",
        "",
        "What the users met: " + ", ".join(f"{n} {what}" for what, n in sorted(state.counts.items())) + ".",
        "",
        *(["## Violations", "", *(f"- {text}" for text in state.violations), ""] if state.violations else []),
    ]
    return "\n".join(lines)


def arguments(args: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=__doc__.partition("\n")[0])
    parser.add_argument("--seed", type=int, default=1, help="which faults come when (default 1)")
    parser.add_argument("--kills", type=int, default=300, help="how many faults in all (default 300)")
    parser.add_argument("--minutes", type=float, default=9, help="how long this call goes on at most (default 9)")
    parser.add_argument("--machine", default="two-gpus", help="of config/simulated (default two-gpus: few devices)")
    parser.add_argument("--resume", action="store_true", help="go on with what an earlier call began")
    parser.add_argument("--state", type=Path, help="folder of the state (default: soak/ beside the lab's own data)")
    parser.add_argument(
        "--result", type=Path, default=RESULT, help="where the result goes (default docs/soak-result.md)"
    )
    return parser.parse_args(args)


def main() -> int:
    """One call; its exit code."""
    options = arguments()
    lab, engine_url = os.environ.get("DS01_TEST_LAB", ""), os.environ.get("DOCKER_HOST", "")
    if not lab or not engine_url:
        sys.exit("tests.soak kills an engine: run it in a lab, `make soak` or `tests/engine.sh exec`")
    folder = options.state or Path(f"/var/lib/{lab}/soak")
    folder.mkdir(parents=True, exist_ok=True)
    state = load(folder / "state.json", options.seed, resume=options.resume)
    work = Path(tempfile.mkdtemp(prefix="slice-", dir=folder))
    nvml_library.build(work)
    play(options.machine, work / "machine")
    make_image(engine_url)
    env = dict(gpu_env(work, work / "machine"))
    soak = Soak(state, World(work / "hub", f"{state.seed}.{len(state.slices)}", lab, engine_url, env))

    def end(*_: object) -> None:
        soak.ended = True

    signal.signal(signal.SIGTERM, end)
    signal.signal(signal.SIGINT, end)
    began, before = time.monotonic(), state.kills
    try:
        soak.run(options.kills, options.minutes * 60)
    finally:
        soak.world.end()
        found = {**soak.world.counts, **soak.world.watcher.counts}
        state.counts = {what: state.counts.get(what, 0) + found.get(what, 0) for what in {*state.counts, *found}}
        day = time.strftime("%Y-%m-%d", time.gmtime())
        seconds = round(time.monotonic() - began)
        load_average = round(os.getloadavg()[1], 1)
        state.slices.append(
            {
                "date": day,
                "seconds": seconds,
                "kills": state.kills - before,
                "machine": options.machine,
                "load": load_average,
            }
        )
        (folder / "state.json").write_text(json.dumps(asdict(state)))
        options.result.write_text(result(state, options.kills))
        if not state.violations:
            shutil.rmtree(work)
    print(f"{state.kills} of {options.kills} kills, {len(state.violations)} violations; see {options.result}")
    return 1 if state.violations else 0


if __name__ == "__main__":
    sys.exit(main())
