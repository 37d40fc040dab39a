"""MIG through NVML: the shapes that a board offers and the instances that exist. Read, never assumed."""

from __future__ import annotations

from ctypes import byref, c_uint
from dataclasses import dataclass
from typing import Any

import pynvml

from ds01_spawner.adapters.nvml_calls import NO_VALUE, NvmlCallError, as_text, ask, call, uuid_of
from ds01_spawner.core.devices import MigInstance, Profile
from ds01_spawner.core.mig import MigProfile, parse_profile

_ENGINES = ("copyEngineCount", "decoderCount", "encoderCount", "jpegCount", "ofaCount")
_SHARED = ("sharedCopyEngineCount", "sharedDecoderCount", "sharedEncoderCount", "sharedJpegCount", "sharedOfaCount")
#: What NVIDIA's names append for these numbers of NVML, for drivers that don't tell the name.
_ATTRIBUTES = {
    pynvml.NVML_GPU_INSTANCE_PROFILE_1_SLICE_REV1: "+me",
    pynvml.NVML_GPU_INSTANCE_PROFILE_2_SLICE_REV1: "+me",
    pynvml.NVML_GPU_INSTANCE_PROFILE_1_SLICE_GFX: "+gfx",
    pynvml.NVML_GPU_INSTANCE_PROFILE_2_SLICE_GFX: "+gfx",
    pynvml.NVML_GPU_INSTANCE_PROFILE_3_SLICE_GFX: "+gfx",
    pynvml.NVML_GPU_INSTANCE_PROFILE_4_SLICE_GFX: "+gfx",
    pynvml.NVML_GPU_INSTANCE_PROFILE_1_SLICE_NO_ME: "-me",
    pynvml.NVML_GPU_INSTANCE_PROFILE_2_SLICE_NO_ME: "-me",
    pynvml.NVML_GPU_INSTANCE_PROFILE_1_SLICE_ALL_ME: "+me.all",
    pynvml.NVML_GPU_INSTANCE_PROFILE_2_SLICE_ALL_ME: "+me.all",
}
_EIGHTHS = 8


@dataclass(frozen=True, slots=True)
class Shape:
    """A profile with what tells its instances apart: NVML's id and the engines. No starts: NVML didn't tell them."""

    id: int
    profile: Profile
    engines: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Geometry:
    """What a board offers. `axis` is None where start slots can't be read."""

    shapes: tuple[Shape, ...]

    @property
    def axis(self) -> int | None:
        """Slots on the memory axis: as far as any placement of any profile reaches."""
        ends = [max(s.profile.starts) + s.profile.size for s in self.shapes if s.profile.starts]
        return max(ends) if ends else None

    @property
    def slices(self) -> int | None:
        """The board's compute slices: those of its widest profile."""
        return max((shape.profile.slices for shape in self.shapes), default=None)


class Geometries:
    """The geometry of each board, read once: some hundred calls for what can't change while these stay as they are.

    Known again is what a reading with the same driver found for the same GPU in the same mode. Each reading takes a new
    one with the one before, so that nothing is kept of GPUs that are gone.
    """

    def __init__(self, driver: str, before: Geometries | None = None) -> None:
        self._driver = driver
        self._before = before._found if before is not None and before._driver == driver else {}
        self._found: dict[tuple[str, bool, int], Geometry] = {}

    def of(self, gpu: Any, uuid: str, mig: bool, board_mib: int) -> Geometry:
        """The geometry of this GPU. `mig`: whether MIG is on; `board_mib` is 0 where unknown."""
        key = uuid, mig, board_mib
        known = self._before.get(key) or read_geometry(gpu, board_mib)
        if known.shapes and all(shape.profile.starts for shape in known.shapes):  # what it didn't tell, it may later
            self._found[key] = known
        return known


def name_of(slices: int, memory_mib: int, board_mib: int, attribute: str = "") -> str:
    """A profile's name as NVIDIA would write it: its memory in eighths of the board's, rounded to whole GB."""
    eighths = -(-memory_mib * _EIGHTHS // board_mib)
    board_gb = -(-board_mib // 1024)
    gb = (eighths * board_gb * 2 + _EIGHTHS) // (2 * _EIGHTHS)
    return str(MigProfile(slices, max(gb, 1), attribute))


def read_geometry(gpu: Any, board_mib: int) -> Geometry:
    """All profiles of a board with their placements. `board_mib` is 0 where unknown."""
    infos = [(enum, _profile_info(gpu, enum)) for enum in range(pynvml.NVML_GPU_INSTANCE_PROFILE_COUNT)]
    found = [(enum, info) for enum, info in infos if info is not None]
    widest = max([board_mib, *(int(info.memorySizeMB) for _, info in found)])
    shapes = [_shape(gpu, enum, info, widest) for enum, info in found]
    return Geometry(tuple(sorted(shapes, key=lambda shape: parse_profile(shape.profile.name))))


def read_instances(gpu: Any, geometry: Geometry, board_mib: int) -> tuple[MigInstance, ...]:
    """The MIG devices of a GPU in MIG mode."""
    found = []
    for index in range(call("nvmlDeviceGetMaxMigDeviceCount", gpu)):
        # Indices have holes, and an instance may be destroyed between two calls: both say NOT_FOUND.
        try:
            device = call("nvmlDeviceGetMigDeviceHandleByIndex", gpu, index)
            found.append(_instance(gpu, device, geometry, board_mib))
        except NvmlCallError as failure:
            if failure.code != pynvml.NVML_ERROR_NOT_FOUND:
                raise
    return tuple(found)


def _profile_info(gpu: Any, enum: int) -> Any:
    unknown = NO_VALUE | {pynvml.NVML_ERROR_INVALID_ARGUMENT}  # an enum that this driver is too old for
    try:
        return call("nvmlDeviceGetGpuInstanceProfileInfo", gpu, enum)
    except NvmlCallError as failure:
        if failure.code not in unknown:
            raise
        if failure.code not in {pynvml.NVML_ERROR_FUNCTION_NOT_FOUND, pynvml.NVML_ERROR_ARGUMENT_VERSION_MISMATCH}:
            return None
    try:
        return call("nvmlDeviceGetGpuInstanceProfileInfo", gpu, enum, 1)  # before R470: the same without a name
    except NvmlCallError as failure:
        if failure.code in unknown:
            return None
        raise


def _shape(gpu: Any, enum: int, info: Any, board_mib: int) -> Shape:
    slices, memory = int(info.sliceCount), int(info.memorySizeMB)
    # How many fit is taken from the placements: NVML's own instanceCount is wrong on the A30.
    placements = _placements(gpu, int(info.id))
    size = max((size for _, size in placements), default=0)
    starts = tuple(sorted({start for start, _ in placements}))
    name = _told_name(info) or name_of(slices, memory, board_mib, _ATTRIBUTES.get(enum, ""))
    engines = tuple(int(getattr(info, field)) for field in _ENGINES)
    return Shape(int(info.id), Profile(name, slices, memory, size, starts), engines)


def _told_name(info: Any) -> str:
    told = as_text(getattr(info, "name", "")).strip().removeprefix("MIG ")
    try:
        return str(parse_profile(told))
    except ValueError:
        return ""


def _placements(gpu: Any, profile_id: int) -> list[tuple[int, int]]:
    count = c_uint(0)
    function = "nvmlDeviceGetGpuInstancePossiblePlacements"
    if ask(None, function, gpu, profile_id, None, byref(count)) is None or not count.value:
        return []
    room = (pynvml.c_nvmlGpuInstancePlacement_t * count.value)()
    call(function, gpu, profile_id, room, byref(count))
    return [(int(place.start), int(place.size)) for place in room[: count.value]]


def _instance(gpu: Any, device: Any, geometry: Geometry, board_mib: int) -> MigInstance:
    uuid = uuid_of(device)
    gi, ci = call("nvmlDeviceGetGpuInstanceId", device), call("nvmlDeviceGetComputeInstanceId", device)
    attributes = ask(None, "nvmlDeviceGetAttributes", device)
    info = _gpu_instance_info(gpu, gi)
    shape = _shape_of(geometry, info, attributes)
    if shape is not None:
        profile, memory = parse_profile(shape.profile.name), shape.profile.memory_mib
    elif attributes is not None and board_mib:
        memory = int(attributes.memorySizeMB)
        profile = parse_profile(name_of(int(attributes.gpuInstanceSliceCount), memory, board_mib))
    else:
        raise NvmlCallError("nvmlDeviceGetAttributes", pynvml.NVML_ERROR_NOT_SUPPORTED, f"{uuid} has no known profile")
    slices = int(attributes.computeInstanceSliceCount) if attributes is not None else profile.slices
    if slices < profile.slices:  # a compute instance that has only a part of its GPU instance
        profile = MigProfile(profile.slices, profile.memory_gb, profile.attribute, slices)
    start, size = (int(info.placement.start), int(info.placement.size)) if info is not None else (None, None)
    return MigInstance(uuid, gi, ci, str(profile), slices, memory, start, size)


def _gpu_instance_info(gpu: Any, gi: int) -> Any:
    """Profile id and placement of a GPU instance; None where NVML won't tell (it takes a privileged user)."""
    handle = ask(None, "nvmlDeviceGetGpuInstanceById", gpu, gi)
    return None if handle is None else ask(None, "nvmlGpuInstanceGetInfo", handle)


def _shape_of(geometry: Geometry, info: Any, attributes: Any) -> Shape | None:
    if info is not None:
        return next((shape for shape in geometry.shapes if shape.id == info.profileId), None)
    if attributes is None:
        return None
    slices, memory = int(attributes.gpuInstanceSliceCount), int(attributes.memorySizeMB)
    engines = tuple(int(getattr(attributes, field)) for field in _SHARED)
    same = [shape for shape in geometry.shapes if shape.profile.slices == slices]
    # `1g.5gb` and `1g.5gb+me` differ in nothing but their engines, `1g.5gb` and `1g.10gb` in their memory.
    return min(
        same,
        key=lambda s: (abs(s.profile.memory_mib - memory), s.engines != engines, s.profile.name),
        default=None,
    )
