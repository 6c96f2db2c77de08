"""Which GPUs, or cores, each replica on one machine gets: no two share any while there are enough.

Pure. A profile's `devices` and `cpu_cores` name what all of its replicas may use; none named means every GPU
of the machine, and the engine's own choice of cores.
"""

from collections.abc import Collection, Sequence

from msgspec.structs import replace

from backends.engines.profile import CannotLaunch, LaunchProfile, Place


def assigned(
    profile: LaunchProfile, machine: Sequence[int], taken: Collection[LaunchProfile]
) -> LaunchProfile:
    """The profile of one more replica, beside those of `taken`; `machine` are the GPUs that are here.

    Raises CannotLaunch where no GPU is free. Without a known GPU the engine chooses itself.
    """
    if not profile.gpus:
        return _with_cores(profile, taken)
    pool = profile.devices or tuple(machine)
    if not pool:
        return profile
    used = {device for one in taken for device in one.devices}
    free = [device for device in pool if device not in used]
    if len(free) < profile.gpus:
        raise CannotLaunch(
            f"{profile.gpus} GPUs are needed and {len(free)} of {', '.join(map(str, pool))} are free: "
            "lower max_replicas, or name more in devices"
        )
    return replace(profile, devices=tuple(free[: profile.gpus]))


def kept(profile: LaunchProfile, machine: Sequence[int], place: Place) -> LaunchProfile:
    """The profile of a replica that runs already, with the GPUs or cores that it was given.

    Where they are not its model's any more it has none of them: no running one looks like that.
    """
    pool = profile.devices or tuple(machine)
    devices = place.devices if set(place.devices) <= set(pool) else ()
    cores = place.cpu_cores if set(place.cpu_cores) <= set(profile.cpu_cores) else ()
    return replace(profile, devices=devices, cpu_cores=cores)


def _with_cores(profile: LaunchProfile, taken: Collection[LaunchProfile]) -> LaunchProfile:
    """An even share of the cores for each replica there may be; the least used ones."""
    cores = profile.cpu_cores
    ranks = profile.tensor_parallel * profile.pipeline_parallel * profile.data_parallel
    share = max(len(cores) // profile.ceiling, ranks)
    if share >= len(cores):
        return profile
    uses = {core: sum(core in one.cpu_cores for one in taken) for core in cores}
    return replace(profile, cpu_cores=tuple(sorted(sorted(cores, key=lambda core: uses[core])[:share])))
